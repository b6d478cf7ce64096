"""The folder on a real file system: what is foreign, linked, missing or unfinished."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shimmy.worker.disk.folder import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "cache" / "prefixes")


def content(folder: Folder, name: str) -> bytes:
    with folder.reading(name) as file:
        return file.read() or b""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_file_appears_whole_and_private(folder: Folder) -> None:
    old = os.umask(0)
    try:
        folder.write("name", [b"con", memoryview(b"tent")])
    finally:
        os.umask(old)
    assert content(folder, "name") == b"content"
    assert (mode(folder.path), mode(folder.path / "name")) == (0o700, 0o600)
    assert folder.names() == ["name"]
    folder.write("name", [b"new"])
    assert content(folder, "name") == b"new"


def test_without_the_folder(folder: Folder) -> None:
    assert (folder.stamp(), folder.names(), folder.files()) == (None, [], [])
    folder.remove("name")
    folder.sweep()
    with pytest.raises(FileNotFoundError), folder.reading("name"):
        pass
    assert not folder.path.exists()


def test_an_exposed_folder_is_closed(folder: Folder) -> None:
    folder.path.mkdir(parents=True)
    folder.path.chmod(0o777)
    folder.write("name", [b"content"])
    assert mode(folder.path) == 0o700


def test_a_file_that_cannot_be_finished_leaves_nothing(folder: Folder) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        folder.write("name", pieces())
    assert folder.names() == []


def test_links_are_not_followed(folder: Folder, tmp_path: Path) -> None:
    folder.write("name", [b"content"])
    (tmp_path / "outside").write_bytes(b"secret")
    (folder.path / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError), folder.reading("link"):
        pass
    folder.write("link", [b"mine"])
    assert (tmp_path / "outside").read_bytes() == b"secret"
    assert content(folder, "link") == b"mine"

    (tmp_path / "way").symlink_to(folder.path)
    linked = Folder(tmp_path / "way")
    with pytest.raises(OSError):
        linked.names()
    with pytest.raises(OSError):
        linked.write("name", [b"changed"])
    assert content(folder, "name") == b"content"


def test_what_is_no_file_is_not_read(folder: Folder) -> None:
    folder.write("name", [b"content"])
    os.mkfifo(folder.path / "pipe")
    (folder.path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError), folder.reading(name):
            pass
    assert [file.name for file in folder.files()] == ["name"]


def test_what_belongs_to_another_user_is_not_touched(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("name", [b"content"])
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    for act in (folder.names, folder.files, folder.sweep, lambda: folder.remove("name")):
        with pytest.raises(PermissionError):
            act()
    with pytest.raises(PermissionError):
        folder.write("other", [b"content"])
    assert os.listdir(folder.path) == ["name"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_foreign_file_in_our_folder_is_not_read(folder: Folder) -> None:
    folder.write("name", [b"content"])
    os.chown(folder.path / "name", 12345, -1)
    with pytest.raises(PermissionError), folder.reading("name"):
        pass


def test_sweeping_leaves_what_is_being_written(folder: Folder) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"some"
        folder.sweep()
        assert len(folder.names()) == 2
        yield b"more"

    folder.write("old", [b"content"])
    folder.write("name", pieces())
    assert content(folder, "name") == b"somemore"


def test_sweeping_removes_what_nobody_writes(folder: Folder) -> None:
    folder.write("name", [b"content"])
    (folder.path / ".0123456789abcdef.partial").write_bytes(b"cont")
    (folder.path / "README").write_bytes(b"a user's")
    folder.sweep()
    assert sorted(folder.names()) == ["README", "name"]
