import os
import subprocess
import sys
from pathlib import Path

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
