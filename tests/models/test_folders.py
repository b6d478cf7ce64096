"""Walking folders: in a fixed order, whatever lies in them."""

import logging
import os
from pathlib import Path

import pytest

from shimmy.models import folders
from shimmy.models.folders import DataFolder, File, Folder, Found, HuggingFaceCache, regular_files


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def found(source: Folder | File | HuggingFaceCache | DataFolder) -> list[Found]:
    return list(source.find())


def test_finds_gguf_files_below_a_folder_in_order(tmp_path: Path) -> None:
    wanted = [touch(tmp_path / "b.gguf"), touch(tmp_path / "c.GGUF"), touch(tmp_path / "a" / "deep" / "a.gguf")]
    for name in ("notes.txt", "model.gguf.part", ".hidden.gguf", ".git/x.gguf"):
        touch(tmp_path / name)
    assert [each.paths for each in found(Folder("x", str(tmp_path)))] == [(path,) for path in wanted]


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert found(Folder("x", str(tmp_path / "absent"))) == []


def test_depth_is_bounded(tmp_path: Path) -> None:
    top = touch(tmp_path / "top.gguf")
    touch(tmp_path / "below" / "x.gguf")
    assert [each.paths for each in found(Folder("x", str(tmp_path), depth=1))] == [(top,)]
    touch(tmp_path.joinpath(*["d"] * folders.MAX_DEPTH) / "x.gguf")
    assert len(found(Folder("x", str(tmp_path)))) == 2


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    real = touch(tmp_path / "elsewhere" / "real.gguf")
    start = tmp_path / "start"
    start.mkdir()
    (start / "linked.gguf").symlink_to(real)
    (start / "folder").symlink_to(tmp_path / "elsewhere")
    (start / "loop").symlink_to(start)
    (start / "broken.gguf").symlink_to(tmp_path / "nothing")
    (start / "itself").symlink_to(start / "itself")
    names = [os.path.relpath(path, start) for path in regular_files(str(start))]
    assert names == ["linked.gguf", "folder/real.gguf"]


def test_only_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "folder.gguf").mkdir()
    assert found(Folder("x", str(tmp_path))) == []


def test_an_unreadable_folder_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readable = touch(tmp_path / "b" / "x.gguf")
    touch(tmp_path / "a" / "y.gguf")
    scandir = os.scandir

    def refusing(path: str) -> object:
        if path.endswith("/a"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [each.paths for each in found(Folder("x", str(tmp_path)))] == [(readable,)]


def test_the_number_of_entries_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(folders, "MAX_ENTRIES", 3)
    for number in range(5):
        touch(tmp_path / f"{number}.gguf")
    with caplog.at_level(logging.WARNING):
        assert len(found(Folder("x", str(tmp_path)))) == 3
    assert "has more than 3 entries" in caplog.text


def test_shards_are_one_model(tmp_path: Path) -> None:
    paths = [touch(tmp_path / f"Big-0000{number}-of-00003.gguf") for number in (1, 2, 3)]
    assert found(Folder("x", str(tmp_path))) == [Found("big", tuple(paths))]
    assert found(File("x", paths[1])) == [Found("big", tuple(paths))]


def test_a_missing_shard_is_said(tmp_path: Path) -> None:
    paths = [touch(tmp_path / f"big-0000{number}-of-00004.gguf") for number in (2, 4)]
    reason = "2 of 4 shards are missing, the first is big-00001-of-00004.gguf"
    assert found(Folder("x", str(tmp_path))) == [Found("big", tuple(paths), reason)]


def test_a_named_file_may_be_called_anything(tmp_path: Path) -> None:
    path = touch(tmp_path / "sha256-abc")
    assert found(File("x", path)) == [Found("sha256-abc", (path,))]
    assert found(File("x", str(tmp_path / "absent"))) == []


def test_a_path_that_is_no_text_is_said(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff.gguf")).touch()
    [only] = found(Folder("x", str(tmp_path)))
    assert only.paths == () and only.reason and only.reason.startswith("its path is not plain text: ")
    only.reason.encode()


def test_hugging_face_snapshots(tmp_path: Path) -> None:
    blob = touch(tmp_path / "models--org--name" / "blobs" / "abc")
    snapshot = tmp_path / "models--org--name" / "snapshots" / "rev" / "Q4" / "Name-Q4.gguf"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(blob)
    touch(tmp_path / "datasets--org--x" / "snapshots" / "rev" / "x.gguf")
    touch(tmp_path / "loose.gguf")
    assert found(HuggingFaceCache(str(tmp_path))) == [Found("name-q4", (str(snapshot),))]


def test_the_data_folder_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    path = touch(tmp_path / "shimmy" / "models" / "x.gguf")
    assert found(DataFolder()) == [Found("x", (path,))]
