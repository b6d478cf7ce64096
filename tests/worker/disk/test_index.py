"""What the index says of a folder is what is there, and it asks no more often than it must."""

import array
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.worker.disk import entry, index
from shimmy.worker.disk.folder import Folder
from shimmy.worker.disk.index import MIN_TOKENS, Index, is_entry
from shimmy.worker.disk.scope import Scope

PLAIN, SEALED = Scope(b"model", b"", None), Scope(b"model", b"", b"k" * 32)


def tokens(number: int) -> "array.array[int]":
    """They begin alike."""
    return array.array("i", [*range(MIN_TOKENS), number])


START = tokens(0)


def add(folder: Path, scope: Scope, number: int) -> str:
    name = scope.name(tokens(number))
    Folder(folder).write(name, entry.write(scope, tokens(number), b"state"))
    return name


def rest(folder: Path, at: int = 1) -> None:
    """Makes it look as if the folder had not changed for long."""
    os.utime(folder, (at, at))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which methods of the folder were called."""
    calls: list[str] = []

    def spy(name: str, method: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object) -> object:
            calls.append(name)
            return method(*arguments)

        return called

    for name in ("names", "reading"):
        monkeypatch.setattr(Folder, name, spy(name, getattr(Folder, name)))
    return calls


@pytest.mark.parametrize(
    "other",
    ["README", ".0123456789abcdef.partial", "0" * 16 + "-" + "0" * 31 + ".kv", "0" * 16 + "-" + "0" * 32 + ".kv.old"],
)
def test_other_files_are_no_entries(tmp_path: Path, other: str) -> None:
    assert is_entry(PLAIN.name(tokens(1)))
    assert not is_entry(other)
    (tmp_path / other).touch()
    assert Index(Folder(tmp_path)).entries(PLAIN, START) == {}
    assert (tmp_path / other).exists()


def test_every_scope_sees_its_own(tmp_path: Path) -> None:
    plain, sealed = add(tmp_path, PLAIN, 1), add(tmp_path, SEALED, 2)
    index = Index(Folder(tmp_path))
    assert index.entries(PLAIN, START) == {plain: tokens(1)}
    assert index.entries(SEALED, START) == {sealed: tokens(2)}
    assert index.entries(Scope(b"model", b"other", None), START) == {}


def test_only_what_begins_alike_is_shown(tmp_path: Path) -> None:
    add(tmp_path, PLAIN, 1)
    index = Index(Folder(tmp_path))
    assert len(index.entries(PLAIN, START + START)) == len(index.entries(PLAIN, START[:MIN_TOKENS])) == 1
    for start in (START[: MIN_TOKENS - 1], START[1:], START[:0]):
        assert index.entries(PLAIN, start) == {}


def test_each_entry_is_read_once(tmp_path: Path, calls: list[str]) -> None:
    names = {add(tmp_path, PLAIN, number) for number in range(3)}
    rest(tmp_path)
    index = Index(Folder(tmp_path))
    for _ in range(5):
        assert index.entries(PLAIN, START).keys() == names
    assert sorted(calls) == ["names"] + ["reading"] * 3
    names.add(add(tmp_path, PLAIN, 3))
    assert index.entries(PLAIN, START).keys() == names
    assert sorted(calls) == ["names"] * 2 + ["reading"] * 4


def test_a_change_that_the_clock_hides_is_seen_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's time is that of the kernel's tick, or of a whole second."""
    index = Index(Folder(tmp_path))
    now = time.time()
    os.utime(tmp_path, (now, now))
    assert index.entries(PLAIN, START) == {}
    name = add(tmp_path, PLAIN, 1)
    os.utime(tmp_path, (now, now))
    deadline = time.monotonic() + 60
    while not index.entries(PLAIN, START):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert index.entries(PLAIN, START).keys() == {name}


def test_a_folder_in_its_place_is_another_one(tmp_path: Path) -> None:
    for each in ("one", "two"):
        (tmp_path / each).mkdir()
    name = add(tmp_path / "two", PLAIN, 1)
    index = Index(Folder(tmp_path / "one"))
    for each in ("one", "two"):
        rest(tmp_path / each)
    assert index.entries(PLAIN, START) == {}
    (tmp_path / "one").rmdir()
    assert index.entries(PLAIN, START) == {}
    (tmp_path / "two").rename(tmp_path / "one")
    assert index.entries(PLAIN, START).keys() == {name}


def test_an_entry_that_is_not_what_its_name_says_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two, three = (add(tmp_path, PLAIN, number) for number in (1, 2, 3))
    (tmp_path / one).replace(tmp_path / two)
    (tmp_path / three).write_bytes(b"short")
    assert Index(Folder(tmp_path)).entries(PLAIN, START) == {}
    assert os.listdir(tmp_path) == []
    assert len(caplog.records) == 2


def test_an_entry_that_was_replaced_is_read_again(tmp_path: Path) -> None:
    name = add(tmp_path, PLAIN, 1)
    good = (tmp_path / name).read_bytes()
    index = Index(Folder(tmp_path))
    (tmp_path / name).write_bytes(b"damaged")
    assert index.entries(PLAIN, START) == {}
    (tmp_path / name).write_bytes(good)
    assert index.entries(PLAIN, START).keys() == {name}


def test_scopes_are_forgotten_in_turn(tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "_MAX_SCOPES", 2)
    add(tmp_path, PLAIN, 1)
    rest(tmp_path)
    one = Index(Folder(tmp_path))
    for namespace in (b"", b"one", b"", b"two", b""):
        one.entries(Scope(b"model", namespace, None), START)
    assert calls.count("reading") == 1
    for namespace in (b"one", b"two", b""):
        one.entries(Scope(b"model", namespace, None), START)
    assert calls.count("reading") == 2
