"""Models made of others and of files that were sent."""

import os
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from shimmy.core.errors import ModelInvalid, ModelNotFound, RequestError
from shimmy.core.modelfile import MAX_LAYERS, Recipe, Turn
from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from shimmy.models.making import Making
from shimmy.models.scan import look_again, scan
from shimmy.models.stored import StoreSource
from shimmy.store.folder import ABANDONED_SECONDS, Store
from tests.fakes.gguf_writer import model


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def catalog(tmp_path: Path, store: Store) -> Catalog:
    model().write(tmp_path / "models" / "tiny.gguf")
    made = Catalog([Folder("models", str(tmp_path / "models")), StoreSource({"SHIMMY_STORE": store.root})])
    made.refresh()
    return made


def make(store: Store, catalog: Catalog, recipe: Recipe) -> None:
    """One whose weights are there already."""
    making = Making(store, catalog, recipe)
    try:
        making.prepare()
        assert making.rewriting is None
        making.finish(lambda: None)
    finally:
        making.close()


def sent(store: Store, content: bytes) -> str:
    store.make()
    return store.put(content)


def weights(tmp_path: Path, **metadata: Any) -> bytes:
    return model(**metadata).write(tmp_path / "made.gguf").read_bytes()


def test_of_another_model(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    params = {"temperature": 0.5, "stop": ["</s>"]}
    make(store, catalog, Recipe("mario", "tiny", system="Be Mario.", params=params, licenses=("MIT",)))
    catalog.refresh()
    mario = catalog.find("mario")
    assert mario.paths == (str(tmp_path / "models" / "tiny.gguf"),)
    assert (mario.own.system, mario.own.sampling, mario.own.stop) == ("Be Mario.", {"temperature": 0.5}, ("</s>",))
    assert [Path(path).read_text() for path in mario.own.licenses] == ["MIT"]
    assert catalog.find("tiny").own.system == ""


def test_a_name_that_would_not_lead_to_it_is_refused(store: Store, catalog: Catalog) -> None:
    with pytest.raises(RequestError, match="'tiny' is what a model is called that is found before the store: models"):
        make(store, catalog, Recipe("tiny", "tiny", system="Be Mario."))
    assert list(store.manifests()) == []


def test_what_is_not_said_anew_is_kept(store: Store, catalog: Catalog) -> None:
    turns = (Turn("user", "Hi"),)
    first = Recipe(
        "one", "tiny", system="Be Mario.", params={"top_k": 5, "top_p": 0.5}, messages=turns, licenses=("A",)
    )
    make(store, catalog, first)
    make(store, catalog, Recipe("two", "one", params={"top_k": 7}, licenses=("B",)))
    catalog.refresh()
    own = catalog.find("two").own
    assert (own.system, own.messages, own.sampling) == ("Be Mario.", turns, {"top_k": 7, "top_p": 0.5})
    assert len(own.licenses) == 2


def test_what_comes_with_a_model_does_not_grow_without_end(store: Store, catalog: Catalog) -> None:
    """Whatever is made of it can be read again."""
    make(store, catalog, Recipe("one", "tiny", licenses=tuple(f"{at}" for at in range(MAX_LAYERS))))
    make(store, catalog, Recipe("one", "one", licenses=("0", "1")))
    with pytest.raises(RequestError, match="65 licences"):
        make(store, catalog, Recipe("one", "one", licenses=("64",)))
    catalog.refresh()
    assert len(catalog.find("one").own.licenses) == MAX_LAYERS


def test_a_model_made_anew_leaves_nothing_behind(store: Store, catalog: Catalog) -> None:
    for system in ("Be Mario.", "Be Luigi."):
        make(store, catalog, Recipe("mario", "tiny", system=system))
    digest = sha256(b"Be Luigi.").hexdigest()
    assert [path.name for path in (Path(store.root) / "blobs").iterdir()] == [f"sha256-{digest}"]


def test_what_was_sent_and_never_used_goes(store: Store, catalog: Catalog) -> None:
    old, fresh = sent(store, b"old"), sent(store, b"fresh")
    long_ago = time.time() - ABANDONED_SECONDS - 60
    os.utime(store.blob(old), (long_ago, long_ago))
    make(store, catalog, Recipe("mario", "tiny", system="Be Mario."))
    assert store.size(old) is None and store.size(fresh) == 5


def test_of_files(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    digest = sent(store, weights(tmp_path))
    make(store, catalog, Recipe("made", files={"made-Q8_0.gguf": digest}))
    catalog.refresh()
    assert catalog.find("made").paths == (store.blob(digest),)


def test_with_an_adapter(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    digest = sent(store, weights(tmp_path, general__type="adapter", adapter__type="lora"))
    make(store, catalog, Recipe("poet", "tiny", adapters={"poet.gguf": digest}))
    catalog.refresh()
    assert catalog.find("poet").own.adapters == (store.blob(digest),)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.gguf": "0" * 64}, "there is no blob"),
        ({"a.gguf": "model", "b.gguf": "model"}, "one GGUF model"),
        ({"a-00001-of-00002.gguf": "model"}, "one GGUF model"),
        ({"a-00001-of-00002.gguf": "model", "a-00002-of-00002.gguf": "model"}, "two shards are the same"),
        ({"model.safetensors": "model"}, "has config.json and model"),
        ({"config.json": "model"}, "has config.json and model"),
        ({"../../etc/passwd": "model"}, "one GGUF model"),
        ({"x" * 300 + ".gguf": "model"}, "at most 255"),
        ({"a\x1b[2J.gguf": "model"}, "printable"),
    ],
)
def test_files_that_are_no_model(tmp_path: Path, store: Store, catalog: Catalog, files: Any, said: str) -> None:
    digest = sent(store, weights(tmp_path))
    given = {name: digest if value == "model" else value for name, value in files.items()}
    with pytest.raises(RequestError, match=said):
        make(store, catalog, Recipe("made", files=given))
    assert store.find("made") is None


def test_what_could_not_be_used_is_not_made(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    junk, whole = sent(store, b"junk"), sent(store, weights(tmp_path))
    with pytest.raises(ModelInvalid, match="cannot be served"):
        make(store, catalog, Recipe("made", files={"a.gguf": junk}))
    for digest in (junk, whole):
        with pytest.raises(ModelInvalid, match="is no adapter"):
            make(store, catalog, Recipe("made", "tiny", adapters={"a.gguf": digest}))
    with pytest.raises(ModelNotFound):
        make(store, catalog, Recipe("made", "nothing"))
    with pytest.raises(RequestError, match="no name for a model"):
        make(store, catalog, Recipe("../made", "tiny"))
    with pytest.raises(RequestError, match="system: longer"):
        make(store, catalog, Recipe("made", "tiny", system="x" * (1 << 21)))
    assert list(store.manifests()) == []


def test_a_file_of_several_models_is_not_looked_at_alone(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    """All of its models change with it, so that only a scan of everything will do."""
    path = tmp_path / "models" / "tiny.gguf"
    folder = catalog.sources[0]
    assert look_again(scan(catalog.sources, None, {}), {str(path): folder}) is not None
    make(store, catalog, Recipe("mario", "tiny", system="Be Mario."))
    assert look_again(scan(catalog.sources, None, {}), {str(path): folder}) is None
    path.unlink()
    catalog.refresh()
    assert catalog.look_up("tiny") is None
    assert "No such file" in str(catalog.look_up("mario"))
