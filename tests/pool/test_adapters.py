"""Which model the adapters are for."""

from pathlib import Path
from typing import Any

import pytest

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.errors import ModelFailed
from shimmy.core.ipc import Adapter
from shimmy.core.settings import Settings
from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from shimmy.pool.adapters import Adapters
from tests.fakes import gguf_writer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        gguf_writer.model(name).write(tmp_path / f"{name}.gguf")
    (tmp_path / "poet.lora").touch()
    return tmp_path


def wanted(folder: Path, environ: dict[str, str] | None = None, **settings: Any) -> list[str]:
    """The models that get adapters."""
    catalog = Catalog([Folder("models", str(folder))])
    catalog.refresh()
    engine = EngineSettings(lora=(f"{folder / 'poet.lora'}=0.5",))
    adapters = Adapters(Settings(engine=engine, **settings), catalog, environ or {})
    found = {model.id: adapters.of(model) for model in catalog.models()}
    assert all(each in ((), (Adapter("poet.lora", str(folder / "poet.lora"), 0.5),)) for each in found.values())
    return [name for name, given in found.items() if given]


def test_which_model_they_are_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    base = {"SHIMMY_BASE_GGUF": str(folder / "one.gguf")}
    assert wanted(folder) == ["one", "two"]
    assert wanted(folder, {"SHIMMY_BASE_GGUF": str(folder)}) == ["one", "two"]
    assert wanted(folder, base) == ["one"]
    assert wanted(folder, base, model_path="two.gguf") == ["two"]
    assert wanted(folder, base, lora_model="two") == ["two"]
    assert wanted(folder, lora_model="absent") == []


def test_a_file_that_has_gone(folder: Path) -> None:
    catalog = Catalog([Folder("models", str(folder))])
    catalog.refresh()
    adapters = Adapters(Settings(engine=EngineSettings(lora=("absent.gguf",))), catalog, {})
    with pytest.raises(ModelFailed, match="lora: there is no file 'absent.gguf'"):
        adapters.of(catalog.find("one"))
