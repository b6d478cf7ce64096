"""Models whose weights are written anew: what is asked of workers, and what becomes of what they write."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import Draining, ModelInvalid, RequestError, StoreFull
from shimmy.core.ipc import Convert, Quantize
from shimmy.core.modelfile import Recipe
from shimmy.models.catalog import Catalog
from shimmy.models.facts import FILE_TYPES
from shimmy.models.folders import Folder
from shimmy.models.making import Making
from shimmy.models.rewriting import Rewriting, laid_out
from shimmy.models.stored import StoreSource
from shimmy.store.folder import Store
from tests.convert.checkpoints import write_checkpoint, write_json
from tests.fakes.gguf_writer import TensorSpec, model

NUMBERS = {name: number for number, name in FILE_TYPES.items()}
# ggml.h
Q4_1_TENSOR = 3
# In characters a name may be as long, in bytes no file's.
TOO_LONG = f"model{'é' * 200}.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def catalog(tmp_path: Path, store: Store) -> Catalog:
    """Of "tiny" in F32, "small", which is quantized, and a checkpoint in BF16."""
    models = tmp_path / "models"
    model(general__file_type=0).write(models / "tiny.gguf")
    small = model(general__file_type=NUMBERS["Q4_1"], llama__embedding_length=32)
    small.tensors = [TensorSpec("token_embd.weight", (32, 260), Q4_1_TENSOR, 260 * 20)]
    small.write(models / "small.gguf")
    write_checkpoint(models, "mistral")
    made = Catalog([Folder("models", str(models)), StoreSource({"SHIMMY_STORE": store.root})])
    made.refresh()
    return made


@contextmanager
def prepared(store: Store, catalog: Catalog, recipe: Recipe) -> Iterator[Making]:
    making = Making(store, catalog, recipe)
    try:
        making.prepare()
        yield making
    finally:
        making.close()
        assert os.listdir(Path(store.root) / "partial") == []


def rewriting_of(making: Making) -> Rewriting:
    assert making.rewriting is not None
    return making.rewriting


def sent(store: Store, folder: Path) -> dict[str, str]:
    store.make()
    return {path.name: store.put(path.read_bytes()) for path in folder.iterdir()}


def blobs(store: Store) -> set[str]:
    return set(os.listdir(Path(store.root) / "blobs"))


def test_a_model_in_another_quantization(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    recipe = Recipe("mine", "tiny", system="Be Mario.", quantize="q8_0")
    with prepared(store, catalog, recipe) as making:
        rewriting = rewriting_of(making)
        [job] = rewriting.jobs
        assert isinstance(job, Quantize) and job.file_type == NUMBERS["Q8_0"] and not job.allow_requantize
        assert job.source == str(tmp_path / "models" / "tiny.gguf")
        assert (rewriting.source_type, rewriting.target_type) == ("F32", "Q8_0")
        assert blobs(store) == set()
        model(general__file_type=NUMBERS["Q8_0"]).write(Path(job.target))
        made = making.finish(lambda: None)
    assert made.parts[0].name == "model-Q8_0.gguf" and made.provenance.source == "models: tiny; quantized to Q8_0"
    catalog.refresh()
    mine = catalog.find("mine")
    assert mine.paths == (store.blob(made.parts[0].sha256 or ""),) and mine.own.system == "Be Mario."
    store.remove("mine")
    assert blobs(store) == set()


def test_the_same_once_more_leaves_the_file_as_it_is(store: Store, catalog: Catalog) -> None:
    found = []
    for name in ("mine", "mine", "other"):
        with prepared(store, catalog, Recipe(name, "tiny", quantize="q8_0")) as making:
            model(general__file_type=NUMBERS["Q8_0"]).write(Path(rewriting_of(making).outcome))
            digest = making.finish(lambda: None).parts[0].sha256 or ""
        found.append((digest, os.stat(store.blob(digest)).st_ino))
    assert len(set(found)) == 1 and len(blobs(store)) == 1


def test_a_model_that_was_sent_in_shards(store: Store, catalog: Catalog) -> None:
    """They are called as llama.cpp looks for them."""
    store.make()
    files = {}
    for at, tensor in enumerate(model().tensors):
        shard = model(split__no=at, split__count=2, split__tensors__count=2)
        shard.tensors = [tensor]
        files[f"x-F32-0000{at + 1}-of-00002.gguf"] = store.put(shard.encode())
    with prepared(store, catalog, Recipe("mine", files=files, quantize="q4_0")) as making:
        [job] = rewriting_of(making).jobs
        assert isinstance(job, Quantize)
        folder, name = os.path.split(job.source)
        assert name == "model-00001-of-00002.gguf"
        assert sorted(os.listdir(folder)) == [name, "model-00002-of-00002.gguf"]


def test_a_model_that_is_quantized_is_refused(store: Store, catalog: Catalog) -> None:
    with pytest.raises(RequestError, match="quantized already, to Q4_1; quantization is only supported for") as raised:
        with prepared(store, catalog, Recipe("mine", "small", quantize="q8_0")):
            pass
    assert raised.value.param == "quantize" and store.find("mine") is None


def test_a_model_that_is_of_that_type_already_keeps_its_file(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    with prepared(store, catalog, Recipe("mine", "tiny", quantize="f32")) as making:
        assert making.rewriting is None
        assert making.finish(lambda: None).parts[0].path == str(tmp_path / "models" / "tiny.gguf")


def test_a_checkpoint_that_was_sent(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    files = sent(store, tmp_path / "models" / "Tiny-mistral") | {"README.md": store.put(b"read me")}
    with prepared(store, catalog, Recipe("mine:latest", files=files)) as making:
        [job] = rewriting_of(making).jobs
        assert isinstance(job, Convert) and job.name == "mine"
        assert {"config.json", "model.safetensors", "tokenizer.model"} <= {
            os.path.basename(each) for each in job.source
        }
        assert not any(path.endswith("README.md") for path in job.source)
    with prepared(store, catalog, Recipe("mine", files=files, quantize="q8_0")) as making:
        first, second = rewriting_of(making).jobs
        assert isinstance(second, Quantize) and second.source == first.target
        assert rewriting_of(making).changes == ["converted from SafeTensors", "quantized to Q8_0"]
    with prepared(store, catalog, Recipe("mine", files=files, quantize="bf16")) as making:
        assert [type(job) for job in rewriting_of(making).jobs] == [Convert]


def test_a_checkpoint_in_a_folder(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    """It is a model like any other: converted where it is to be quantized, and only there."""
    with prepared(store, catalog, Recipe("mine", "tiny-mistral", quantize="q8_0")) as making:
        first, second = rewriting_of(making).jobs
        assert isinstance(first, Convert) and first.source[0] == str(tmp_path / "models/Tiny-mistral/model.safetensors")
        assert isinstance(second, Quantize)
    with prepared(store, catalog, Recipe("mine", "tiny-mistral")) as making:
        assert making.rewriting is None


def refused(store: Store, catalog: Catalog, files: dict[str, str], said: str) -> None:
    before = blobs(store)
    with pytest.raises((RequestError, ModelInvalid), match=said) as raised:
        with prepared(store, catalog, Recipe("mine", files=files)):
            pass
    assert raised.value.param == "files" and blobs(store) == before and store.find("mine") is None


def test_files_that_are_no_checkpoint(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    files = sent(store, tmp_path / "models" / "Tiny-mistral")
    weights, config = files.pop("model.safetensors"), files["config.json"]
    refused(store, catalog, files, "has config.json and model")
    refused(store, catalog, {"pytorch_model.bin": weights}, "pickled")
    refused(store, catalog, files | {"pytorch_model.bin": weights}, "pickled")
    refused(store, catalog, files | {"model-00001-of-00002.safetensors": weights}, "1 of 2 shards are missing")
    refused(
        store, catalog, files | {"model.safetensors": weights, "a/config.json": config}, "two are called config.json"
    )
    refused(store, catalog, files | {"model.safetensors": "0" * 64}, "there is no blob")
    for name in ("../model\\..\\x.safetensors", "C:model.safetensors", "model*.safetensors", TOO_LONG):
        refused(store, catalog, files | {name: weights}, "has config.json and model")
    refused(store, catalog, files | {"model-A.safetensors": weights, "model-a.safetensors": weights}, "two are called")
    write_json(tmp_path / "t5.json", {"architectures": ["T5Model"]})
    other = store.put((tmp_path / "t5.json").read_bytes())
    refused(store, catalog, files | {"config.json": other, "model.safetensors": weights}, "T5Model cannot be converted")


def test_folders_in_names_lead_nowhere(tmp_path: Path, store: Store, catalog: Catalog) -> None:
    files = {f"../../{name}": digest for name, digest in sent(store, tmp_path / "models" / "Tiny-mistral").items()}
    with prepared(store, catalog, Recipe("mine", files=files)) as making:
        [job] = rewriting_of(making).jobs
        assert isinstance(job, Convert)
        assert {os.path.dirname(path) for path in job.source} == {os.path.dirname(job.target)}


NAMES = st.text() | st.sampled_from(
    [
        *("config.json", "a/1_Pooling/config.json", "..", "a\\..\\model.safetensors", "C:model.safetensors"),
        *("NUL.safetensors", "con.bin", "model?.safetensors", TOO_LONG, "model-1.safetensors"),
    ]
)


@given(st.lists(NAMES | NAMES.map(lambda name: f"../{name}.safetensors"), max_size=5))
def test_no_name_leads_elsewhere(names: list[str]) -> None:
    taken: list[str] = []
    place: Any = SimpleNamespace(path="/nowhere", take=lambda path, name: taken.append(name))
    with suppress(RequestError, ModelInvalid):
        laid_out(place, [(name, "/blob") for name in names])
    for name in taken:
        folder, _, last = name.rpartition("/")
        assert folder in ("", "1_Pooling") and last.partition(".")[0].lower() not in ("", "con", "nul")
        assert re.fullmatch("[A-Za-z0-9._-]{1,255}", last)


@pytest.mark.parametrize("written", [b"junk", b""])
def test_what_was_written_has_to_be_a_model(store: Store, catalog: Catalog, written: bytes) -> None:
    with prepared(store, catalog, Recipe("mine", "tiny", quantize="q8_0")) as making:
        Path(rewriting_of(making).outcome).write_bytes(written)
        with pytest.raises(ModelInvalid, match="what was made cannot be served"):
            making.finish(lambda: None)
    assert blobs(store) == set() and store.find("mine") is None


@pytest.mark.parametrize("was_there", [False, True])
def test_what_was_written_goes_where_it_cannot_be_kept(
    store: Store, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, was_there: bool
) -> None:
    """With the texts, unless somebody has sent the same. And a model that had the name goes on having it."""

    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with prepared(store, catalog, Recipe("mine", "tiny")) as making:
        before = making.finish(lambda: None)
    sent_before = {f"sha256-{store.put(each)}" for each in (model().encode(), b"MIT") if was_there}
    with prepared(store, catalog, Recipe("mine", "tiny", licenses=("MIT",), quantize="q8_0")) as making:
        model().write(Path(rewriting_of(making).outcome))
        with monkeypatch.context() as patched, pytest.raises(StoreFull):
            patched.setattr(store, "keep", fail)
            making.finish(lambda: None)
    assert blobs(store) == sent_before and store.find("mine") == before


def test_who_gives_up_leaves_nothing(store: Store, catalog: Catalog) -> None:
    def stop() -> None:
        raise Draining("over")

    with prepared(store, catalog, Recipe("mine", "tiny", quantize="q8_0")) as making:
        model().write(Path(rewriting_of(making).outcome))
        with pytest.raises(Draining):
            making.finish(stop)
    assert blobs(store) == set() and store.find("mine") is None
