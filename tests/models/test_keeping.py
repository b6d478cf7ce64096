"""Copies and removals by names that only the catalogue knows how to read."""

import os
from pathlib import Path

import pytest

from shimmy.core.errors import RequestError
from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from shimmy.models.keeping import copy, leaves_with, remove
from shimmy.models.stored import StoreSource
from shimmy.store.folder import Store
from shimmy.store.manifests import Manifest, Part, Provenance
from tests.fakes.gguf_writer import model

# As a pull would call a file Tiny-Q4_0.gguf beside its whole name.
ALIAS = "Tiny-Q4_0"
SPELLINGS = [ALIAS, "tiny-q4_0", "tiny-q4-0", "TINY Q4 0"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "store"))
    store.make()
    content = model("Tiny").encode()
    part = Part("Tiny-Q4_0.gguf", len(content), store.put(content))
    store.keep(Manifest("hf.co/org/tiny:q4_0", (part,), Provenance("a test", "2026-11-22T00:00:00Z"), (ALIAS,)))
    return store


@pytest.fixture
def catalog(tmp_path: Path, store: Store) -> Catalog:
    model("Other").write(tmp_path / "models" / "other_one.gguf")
    made = Catalog([Folder("models", str(tmp_path / "models")), StoreSource({"SHIMMY_STORE": store.root})])
    made.refresh()
    return made


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_copy_outlives_the_model_that_it_is_of(store: Store, catalog: Catalog, name: str) -> None:
    copy(store, catalog, name, "mine")
    assert [part.path for manifest in store.manifests() for part in manifest.parts] == [None, None]
    assert remove(store, catalog, "hf.co/org/tiny:q4_0") == 0
    catalog.refresh()
    found = catalog.find("mine").facts
    assert found is not None and found.name == "Tiny"


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_model_is_removed_however_its_name_is_spelled(store: Store, catalog: Catalog, name: str) -> None:
    assert remove(store, catalog, name) == len(model("Tiny").encode())
    assert list(store.manifests()) == []


@pytest.mark.parametrize("name", ["other_one", "other-one", "OTHER ONE"])
def test_files_of_others_stay(tmp_path: Path, store: Store, catalog: Catalog, name: str) -> None:
    path = tmp_path / "models" / "other_one.gguf"
    with pytest.raises(RequestError, match=rf"'other-one' is not of the store .*, but at {path}; remove it there"):
        remove(store, catalog, name)
    assert path.exists() and len(list(store.manifests())) == 1


@pytest.mark.parametrize("name", ["other-one", "linked"])
def test_a_name_that_would_not_lead_to_the_copy_is_refused(
    tmp_path: Path, store: Store, catalog: Catalog, name: str
) -> None:
    path = tmp_path / "models" / "other_one.gguf"
    # Nobody takes it for one that is still being written.
    os.utime(path, (1000, 1000))
    (tmp_path / "models" / "linked.gguf").hardlink_to(path)
    catalog.refresh()
    with pytest.raises(
        RequestError, match=f"'{name}' is what a model is called that is found before the store: models"
    ):
        copy(store, catalog, ALIAS, name)
    assert len(list(store.manifests())) == 1
    for free in ("mine", "mine", "Other-One"):
        copy(store, catalog, ALIAS, free)
        catalog.refresh()
        assert catalog.find(free).source == StoreSource.label


def test_a_model_leaves_with_the_name_that_it_is_known_by(store: Store, catalog: Catalog) -> None:
    copy(store, catalog, ALIAS, "a-copy")
    catalog.refresh()
    for name in (ALIAS, "hf.co/org/tiny:q4_0"):
        assert leaves_with(store, catalog, name) == "hf.co/org/tiny:q4_0"
    for name in ("a-copy", "other-one", "nothing"):
        assert leaves_with(store, catalog, name) is None
