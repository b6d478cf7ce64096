"""Which files a worker gets for the draft model that a person named."""

from pathlib import Path

import pytest

from shimmy.core import ipc
from shimmy.core.errors import ModelFailed
from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from shimmy.pool.draft import DraftModel
from shimmy.pool.placement import Placement
from tests.fakes import gguf_writer
from tests.fakes.pool import fake_model


def catalog(folder: Path) -> Catalog:
    found = Catalog([Folder("folder", str(folder))])
    found.refresh()
    return found


def test_a_file_or_the_name_of_a_listed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = gguf_writer.model().write(tmp_path / "Small.gguf")
    monkeypatch.chdir(tmp_path)
    for name in ("Small.gguf", str(path), "small", "SMALL"):
        assert DraftModel(catalog(tmp_path), name).paths() == (str(path),)


def test_what_is_not_there_fails_by_the_name_of_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ModelFailed, match="--model-draft: the model 'small' does not exist"):
        DraftModel(catalog(tmp_path), "small").paths()


def test_every_model_gets_it_but_the_draft_model_itself(tmp_path: Path) -> None:
    path = gguf_writer.model().write(tmp_path / "small.gguf")
    placement = Placement(ipc.EngineOptions(), draft=DraftModel(catalog(tmp_path), "small"))
    assert placement._options_for(fake_model("large")).draft_paths == (str(path),)
    assert placement._options_for(fake_model("small", path=path)).draft_paths == ()
    assert Placement(ipc.EngineOptions())._options_for(fake_model("large")) == ipc.EngineOptions()
