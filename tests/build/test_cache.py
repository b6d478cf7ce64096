import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from build import cache

CHECKOUT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SHIMMY_BUILD_CACHE": "{tmp}/own", "XDG_CACHE_HOME": "{tmp}/xdg", "HOME": "{tmp}"}, "own"),
        ({"XDG_CACHE_HOME": "{tmp}/xdg", "HOME": "{tmp}"}, "xdg/shimmy-build"),
        ({"HOME": "{tmp}"}, ".cache/shimmy-build"),
        ({"SHIMMY_BUILD_CACHE": "", "HOME": "{tmp}"}, ".cache/shimmy-build"),
    ],
)
def test_the_folder_follows_the_environment(
    variables: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHIMMY_BUILD_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(tmp=tmp_path))
    assert cache.root() == tmp_path / expected
    assert cache.root().is_dir()


def test_a_second_process_waits_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path))
    script = "from build import cache\nwith cache.locked('thing'): print('mine', flush=True)"
    with cache.locked("thing"):
        waiting = subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
        assert waiting.stderr is not None
        assert "waiting for another process that is making thing" in waiting.stderr.readline()
        assert waiting.poll() is None
    assert waiting.communicate()[0] == "mine\n"
    assert waiting.returncode == 0


class Bytes(SimpleNamespace):
    """Windows' module msvcrt: one more call of `locking` fails for each of `refusals`."""

    LK_NBLCK, LK_LOCK = 2, 1

    def __init__(self, *refusals: int) -> None:
        self.refusals = list(refusals)
        self.calls: list[tuple[int, int]] = []

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        self.calls.append((mode, count))
        if self.refusals:
            raise OSError(self.refusals.pop(0), "refused")


@pytest.mark.parametrize(
    ("refusals", "modes"),
    [([], [2]), ([errno.EACCES], [2, 1]), ([errno.EACCES, errno.EDEADLK, errno.EDEADLK], [2, 1, 1, 1])],
)
def test_where_there_is_no_flock_a_byte_is_locked(
    refusals: list[int],
    modes: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Windows gives up after ten seconds, and we do not."""
    system = Bytes(*refusals)
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", system)
    with cache.locked("thing"):
        assert system.calls == [(mode, 1) for mode in modes]
    assert ("waiting" in capsys.readouterr().err) is bool(refusals)


def test_a_lock_that_cannot_be_had_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", Bytes(errno.ENOLCK))
    with pytest.raises(OSError, match="refused"), cache.locked("thing"):
        pass
