"""Models of the store in the listing: at once, under all their names, and with the reason where something is wrong."""

from pathlib import Path

import pytest

from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from shimmy.models.keeping import copy, remove, take_in_all
from shimmy.models.ollama import OllamaStore
from shimmy.models.stored import StoreSource
from shimmy.store.folder import Store
from shimmy.store.imports import in_place
from shimmy.store.manifests import Manifest, Part, Provenance
from tests.fakes.gguf_writer import GGUF, model
from tests.fakes.ollama_store import put_model

DIGEST = "d" * 64


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(str(tmp_path / "store"))
    made.make()
    return made


@pytest.fixture
def catalog(tmp_path: Path, store: Store) -> Catalog:
    made = Catalog([Folder("models folder", str(tmp_path / "models")), StoreSource({"SHIMMY_STORE": store.root})])
    made.refresh()
    return made


def keep(store: Store, content: GGUF, digest: str = DIGEST, name: str = "hf.co/Org/Repo:Q4_0") -> None:
    """As a pull does."""
    path = content.write(Path(store.blob(digest)))
    part = Part("Tiny.gguf", path.stat().st_size, digest)
    store.keep(Manifest(name, (part,), Provenance("https://hf.co/Org/Repo", "2026-11-21T00:00:00Z"), ("Org/Repo",)))


def test_no_store_is_no_trouble(tmp_path: Path) -> None:
    assert list(StoreSource({"SHIMMY_STORE": str(tmp_path / "none")}).find()) == []


def test_a_pulled_model_is_there_at_once(store: Store, catalog: Catalog) -> None:
    keep(store, model("Tiny"))
    (change,) = catalog.refresh()
    assert (change.kind, change.id) == ("added", "hf.co/Org/Repo:Q4_0")
    assert catalog.find("org/repo:latest") == catalog.find("hf.co/org/repo:q4_0")
    assert catalog.skipped() == []


def test_a_name_that_is_taken_stays_whose_it_is(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    model().write(tmp_path / "models" / "own.gguf")
    copy_of = in_place("own", [str(model("other").write(tmp_path / "elsewhere.gguf"))], "test")
    store.keep(copy_of)
    fresh = Catalog(catalog.sources)
    fresh.refresh()
    assert fresh.find("own").source == "models folder"
    assert [each.id.partition("@")[0] for each in fresh.models()] == ["own", "own"]


def test_a_blob_that_is_gone_or_of_another_size(store: Store, catalog: Catalog) -> None:
    keep(store, model())
    Path(store.blob(DIGEST)).write_bytes(b"GGUF")
    catalog.refresh()
    assert "is another one than it was" in (catalog.models()[0].invalid or "")
    Path(store.blob(DIGEST)).unlink()
    catalog.refresh()
    assert "No such file" in (catalog.models()[0].invalid or "")


def test_copied_and_removed(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    keep(store, model())
    catalog.refresh()
    copy(store, catalog, "Org/Repo", "mine")
    catalog.refresh()
    assert catalog.find("mine").paths == catalog.find("Org/Repo").paths
    assert remove(store, catalog, "Org/Repo") == 0
    catalog.refresh()
    assert [each.id for each in catalog.models()] == ["mine"]
    assert remove(store, catalog, "mine") > 0


def test_what_comes_with_a_model_of_ollamas_is_taken_in_with_it(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    """In place, too: nothing is copied."""
    ollama = OllamaStore(str(tmp_path / "ollama"))
    put_model(tmp_path / "ollama", "mario:latest", model().write(tmp_path / "x.gguf").read_bytes(), system="Be Mario.")
    (manifest,) = take_in_all(store, [ollama], "ollama")
    catalog.refresh()
    assert catalog.find("mario").own.system == "Be Mario."
    assert [each.name for each in manifest.layers] == ["system"] and manifest.digests == set()
    copy(store, catalog, "mario", "other")
    catalog.refresh()
    assert catalog.find("other").own == catalog.find("mario").own
    (layer,) = manifest.layers
    Path(layer.path or "").write_text("Be somebody else.")
    catalog.refresh()
    assert "another one than it was" in str(catalog.look_up("mario"))
