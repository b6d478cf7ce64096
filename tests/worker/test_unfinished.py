"""A file is there whole or not at all, with names for what is not whole and without."""

import os
import stat
from pathlib import Path

import pytest

from shimmy.worker import unfinished
from shimmy.worker.unfinished import Unfinished


@pytest.fixture(params=["nameless", "named"])
def has_names(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether unfinished files have names here, as they do on other systems than Linux."""
    if request.param == "named":
        monkeypatch.setattr(unfinished, "_open_nameless", lambda folder: None)
        return True
    return False


def unfinished_file(folder: Path) -> Unfinished:
    return Unfinished(str(folder / "target"), str(folder / ".partial"))


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def write(file: Unfinished, text: str) -> None:
    # As llama.cpp does: opened by name, anew.
    Path(file.path).write_text(text)


@pytest.mark.parametrize("replace", [False, True])
def test_appears_whole(has_names: bool, replace: bool, tmp_path: Path) -> None:
    if replace:
        (tmp_path / "target").write_text("old")
    with unfinished_file(tmp_path) as file:
        write(file, "new")
        before = {"target": "old"} if replace else {}
        assert contents(tmp_path) == (before | {".partial": "new"} if has_names else before)
        assert os.fstat(file.descriptor).st_size == 3
        file.publish(replace=replace)
    assert contents(tmp_path) == {"target": "new"}
    umask = os.umask(0o077)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "target").stat().st_mode) == 0o666 & ~umask


def test_what_has_come_meanwhile_is_left(has_names: bool, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError), unfinished_file(tmp_path) as file:
        write(file, "new")
        (tmp_path / "target").write_text("other")
        file.publish(replace=False)
    assert contents(tmp_path) == {"target": "other"}


def test_a_link_is_replaced_and_not_followed(has_names: bool, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("other")
    (tmp_path / "target").symlink_to("other")
    with unfinished_file(tmp_path) as file:
        write(file, "new")
        file.publish(replace=True)
    assert contents(tmp_path) == {"other": "other", "target": "new"}


def test_a_failure_leaves_nothing(has_names: bool, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), unfinished_file(tmp_path) as file:
        write(file, "half")
        raise RuntimeError
    assert contents(tmp_path) == {}


def test_no_descriptor_stays_open(has_names: bool, tmp_path: Path) -> None:
    open_before = len(os.listdir("/proc/self/fd"))
    for number in range(3):
        with unfinished_file(tmp_path) as file:
            if number:
                file.publish(replace=True)
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_a_folder_that_is_not_there(has_names: bool, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        unfinished_file(tmp_path / "absent")
