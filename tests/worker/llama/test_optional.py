"""Which of several libraries is opened for an optional backend. Where they are looked for: tests/hardware/; that they
really are opened, and when: tests/cli/test_backends.py."""

import os
from pathlib import Path

import pytest

from shimmy.worker.llama import libllama, optional

FILE = "libggml-cuda.so"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return tmp_path


class Opened:
    """Stands in for opening: `works` are the folders whose library does. `told` is what was announced."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.works = ["first", "second"]
        self.paths = [home / folder / "backends" / FILE for folder in self.works]
        for path in self.paths:
            path.parent.mkdir(parents=True)
            path.touch()
            for made in (path, path.parent, path.parent.parent):
                made.chmod(0o755)
        monkeypatch.setattr(optional, "folders", lambda: [path.parent for path in self.paths])
        monkeypatch.setattr(libllama, "names", lambda: [])
        monkeypatch.setattr(optional, "_open", self._open)

    def _open(self, path: Path) -> str | None:
        assert self.told[-1] == str(path), "it may end the process, so it is announced before"
        return None if path.parent.parent.name in self.works else "broken"

    def load(self, **unusable: str) -> str:
        return optional.load("cuda", self.told.append, {str(self.paths[0]): text for text in unusable.values()})


@pytest.fixture
def opened(home: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(home, monkeypatch)


def test_the_first_one_that_works_is_taken(opened: Opened) -> None:
    first, second = map(str, opened.paths)
    assert opened.load() == first
    opened.works = ["second"]
    assert opened.load() == second
    assert opened.told == [first, first, second]


def test_one_that_crashed_is_not_opened_again(opened: Opened) -> None:
    assert opened.load(reason="it crashed") == str(opened.paths[1])
    assert opened.told == [str(opened.paths[1])]


def test_one_that_others_may_write_is_not_opened(opened: Opened) -> None:
    opened.paths[0].chmod(0o646)
    assert opened.load() == str(opened.paths[1])
    assert opened.told == [str(opened.paths[1])]


def test_every_reason_is_told(opened: Opened) -> None:
    opened.works = []
    opened.paths[0].parent.chmod(0o777)
    with pytest.raises(optional.Absent) as raised:
        opened.load()
    first, second = opened.paths
    assert str(raised.value) == f"{first}: others may write to {first.parent} (mode 0777); {second}: broken"


def test_what_is_nowhere_is_missing(opened: Opened) -> None:
    for path in opened.paths:
        path.unlink()
    with pytest.raises(optional.Missing, match=FILE):
        opened.load()


def test_a_path_need_not_be_text() -> None:
    assert optional.as_text(Path(os.fsdecode(b"/\xff/a"))) == "/\ufffd/a"
