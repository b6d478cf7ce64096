"""Where backends for GPUs are looked for, and whether one is there."""

import sys
from pathlib import Path

import pytest

import shimmy
from shimmy.hardware import backends
from shimmy.hardware.libraries import backend_file
from shimmy.models.folders import DataFolder

PROGRAM = Path(shimmy.__file__).parent


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    return tmp_path


def test_the_data_folder_is_the_one_of_the_models(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (None, str(home / "other")):
        if place is not None:
            monkeypatch.setenv("XDG_DATA_HOME", place)
        assert backends.folders()[-1] == Path(DataFolder().place).with_name("backends")


@pytest.mark.parametrize(("name", "value"), [("XDG_DATA_HOME", "data"), ("XDG_DATA_HOME", "."), ("HOME", ".")])
def test_a_relative_path_is_no_place(name: str, value: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "here").mkdir()
    monkeypatch.chdir(home / "here")
    monkeypatch.setenv(name, value)
    assert backends.folders()[0] == PROGRAM / "backends"
    assert all(folder.is_absolute() and not folder.is_relative_to(home / "here") for folder in backends.folders())


@pytest.mark.parametrize("told", ["data/shimmy", RuntimeError("no home")])
def test_without_a_data_folder_there_is_one_place_less(told: str | Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of platformdirs differ in what they make of an environment that makes no sense."""

    def user_data_dir(*arguments: object, **options: object) -> str:
        if isinstance(told, Exception):
            raise told
        return told

    monkeypatch.setattr("platformdirs.user_data_dir", user_data_dir)
    assert backends.folders() == [PROGRAM / "backends"]


def test_beside_an_executable_means_the_file_itself(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "opt").mkdir()
    (home / "opt" / "shimmy").touch()
    (home / "shimmy").symlink_to(home / "opt" / "shimmy")
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", str(home / "shimmy"))
    assert backends.folders()[0] == home / "opt" / "backends"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The second of two, of which the first is not there."""
    monkeypatch.setattr(backends, "folders", lambda: [tmp_path / "absent", tmp_path / "backends"])
    (tmp_path / "backends").mkdir()
    return tmp_path / "backends"


@pytest.mark.parametrize("name", backends.GPU_BACKENDS)
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_every_backend_counts_by_the_name_that_workers_open(
    name: str, system: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert not backends.is_there()
    # A link that leads nowhere is something to tell of, too.
    (folder / backend_file(name)).symlink_to("nowhere")
    assert backends.is_there()


@pytest.mark.parametrize("file", ["libggml-rpc.so", "libggml-cpu-haswell.so", "libcudart.so.12", "libggml-cuda.so.old"])
def test_other_files_do_not(file: str, folder: Path) -> None:
    (folder / file).touch()
    assert not backends.is_there()


def test_nor_does_a_folder_that_cannot_be_read(folder: Path) -> None:
    folder.rmdir()
    folder.touch()
    assert not backends.is_there()
