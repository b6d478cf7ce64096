"""Against a folder of packages instead of the index: pip looks where its own settings say."""

import zipfile
from pathlib import Path

import pytest

from build.fetch import Artifact, fetch, sha256_of

pytestmark = pytest.mark.slow

WHEEL = "tiny_thing-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr("tiny_thing-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        wheel.writestr("tiny_thing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tiny_thing-1.0.dist-info/RECORD", "")
        wheel.writestr("tiny_thing/data.bin", b"x" * 1000)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def artifact(index: Path) -> Artifact:
    return Artifact("tiny-thing", "1.0", WHEEL, sha256_of(index / WHEEL))


def test_the_file_arrives_alone(index: Path, tmp_path: Path) -> None:
    fetched = fetch(artifact(index), tmp_path / "here")
    assert fetched.read_bytes() == (index / WHEEL).read_bytes()
    assert [path.name for path in (tmp_path / "here").iterdir()] == [WHEEL]


def test_a_file_that_is_there_is_not_fetched_again(index: Path, tmp_path: Path) -> None:
    wanted = artifact(index)
    fetch(wanted, tmp_path / "here")
    (index / WHEEL).unlink()
    assert fetch(wanted, tmp_path / "here").exists()


def test_half_a_file_is_fetched_again(index: Path, tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes((index / WHEEL).read_bytes()[:100])
    assert sha256_of(fetch(artifact(index), tmp_path)) == artifact(index).sha256


def test_another_sha256_ends_the_run_and_leaves_nothing(
    index: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wanted = artifact(index)
    with (index / WHEEL).open("ab") as file:
        file.write(b"changed")
    with pytest.raises(SystemExit, match="could not download"):
        fetch(wanted, tmp_path / "here")
    output = capfd.readouterr()
    assert output.out == "" and wanted.sha256 in output.err
    assert list((tmp_path / "here").iterdir()) == []
