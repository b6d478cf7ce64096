"""What a model will take, by its header and by the settings of the engine."""

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.ipc import Adapter, EngineOptions
from shimmy.models.facts import Facts, inspect
from shimmy.models.listing import Model
from shimmy.pool.estimate import FIRST_CELLS, FIXED_CELLS, Details, Draft, estimate
from tests.fakes.gguf_writer import TensorSpec
from tests.fakes.gguf_writer import model as header
from tests.fakes.pool import fake_model

GROWS = pytest.mark.skipif(sys.platform != "linux", reason="contexts grow on Linux only")


def sized(tmp_path: Path, **metadata: Any) -> Model:
    """A model of a million bytes whose header says so much."""
    known = {
        "embedding_length": 64,
        "block_count": 2,
        "context_length": 16384,
        "attention__head_count": 4,
        "attention__head_count_kv": 2,
        "feed_forward_length": 128,
    }
    path = tmp_path / "sized.gguf"
    header(**{f"llama__{name}": value for name, value in (known | metadata).items()}).write(path)
    return msgspec.structs.replace(fake_model("sized"), size_bytes=1_000_000, facts=facts_of(path))


def facts_of(path: Path) -> Facts:
    facts = inspect((str(path),)).facts
    assert facts is not None
    return facts


def options(context_length: int | None = None, **settings: Any) -> EngineOptions:
    packed = msgspec.msgpack.encode(EngineSettings(**settings)) if settings else b""
    return EngineOptions(context_length=context_length, settings=packed)


@GROWS
def test_what_is_taken_at_once_of_a_context_that_grows(tmp_path: Path) -> None:
    found = estimate(sized(tmp_path), options())
    # Keys and values of two heads with 16 numbers of two bytes, in two layers.
    assert (found.cell_bytes, found.num_cells) == (2 * 2 * 16 * 2 * 2, FIRST_CELLS)
    assert found.weights_bytes == 1_000_000
    assert found.total_bytes == (
        found.weights_bytes + found.process_bytes + found.compute_bytes + found.cell_bytes * FIRST_CELLS
    )
    assert estimate(sized(tmp_path), options(1000)).num_cells == 1000
    assert estimate(sized(tmp_path), options(50_000)).num_cells == FIRST_CELLS


@pytest.mark.parametrize(
    ("metadata", "cell_bytes"),
    [
        ({"attention__key_length": 32, "attention__value_length": 8}, 2 * 2 * (32 + 8) * 2),
        ({"attention__head_count_kv": None}, 2 * 4 * 16 * 2 * 2),
        ({"attention__head_count_kv": [0, 2]}, 2 * 4 * 16 * 2 * 2),
        ({"attention__head_count": None}, 0),
    ],
    ids=["own-lengths", "no-groups", "differs-by-layer", "silent"],
)
def test_rows_of_the_cache(tmp_path: Path, metadata: dict[str, Any], cell_bytes: int) -> None:
    assert estimate(sized(tmp_path, **metadata), options()).cell_bytes == cell_bytes


@pytest.mark.parametrize(("kind", "cell_bytes"), [("f32", 512), ("q8_0", 136), ("q4_0", 72)])
def test_types_of_the_cache(tmp_path: Path, kind: str, cell_bytes: int) -> None:
    settings = options(cache_type_k=kind, cache_type_v=kind)
    assert estimate(sized(tmp_path), settings).cell_bytes == cell_bytes


def test_what_is_on_gpus_takes_no_main_memory(tmp_path: Path) -> None:
    """Two layers, and the output layer."""
    one = estimate(sized(tmp_path), options(gpu_layers=1))
    assert one.weights_bytes == 666_666
    # Such a context does not grow.
    assert one.num_cells == FIXED_CELLS
    assert estimate(sized(tmp_path), options(20_000, gpu_layers=1)).num_cells == 16384
    every = estimate(sized(tmp_path), options(gpu_layers="all"))
    assert (every.weights_bytes, every.cache_bytes) == (0, 0)


def named(tmp_path: Path, **metadata: Any) -> Model:
    """Four layers of 300 floats, 200 of them of experts, and 100 that make vectors of tokens; with `output` as many
    that make tokens of vectors. Its vocabulary has 260 tokens."""
    tensors = [TensorSpec("token_embd.weight", (100,))]
    for number in range(4):
        tensors.append(TensorSpec(f"blk.{number}.attn_q.weight", (100,)))
        tensors.append(TensorSpec(f"blk.{number}.ffn_up_exps.weight", (200,)))
    if metadata.pop("output", False):
        tensors.append(TensorSpec("output.weight", (100,)))
    written = header(llama__block_count=4, llama__embedding_length=10, llama__feed_forward_length=20, **metadata)
    written.tensors = tensors
    written.write(tmp_path / "named.gguf")
    size = sum(tensor.num_bytes() for tensor in tensors)
    return msgspec.structs.replace(fake_model("named"), size_bytes=size, facts=facts_of(tmp_path / "named.gguf"))


LAYER, EMBEDDING, LOGITS = 4 * 300, 4 * 100, 512 * 4 * (260 + 2 * 10)


@pytest.mark.parametrize(
    ("settings", "layers", "main", "gpus"),
    [
        ({}, {}, 4 * LAYER + EMBEDDING, {}),
        # The last layer is the one that makes tokens, of the same numbers that stay where they are.
        ({}, {"A": 1}, 4 * LAYER + EMBEDDING, {"A": EMBEDDING}),
        ({}, {"A": 3}, 2 * LAYER + EMBEDDING, {"A": 2 * LAYER + EMBEDDING}),
        ({}, {"A": 2, "B": 3}, EMBEDDING, {"A": 2 * LAYER, "B": 2 * LAYER + EMBEDDING}),
        ({"cpu_moe": True}, {"A": 5}, EMBEDDING + 4 * 800, {"A": 4 * 400 + EMBEDDING}),
        ({"n_cpu_moe": 3}, {"A": 2, "B": 3}, EMBEDDING + 3 * 800, {"A": 2 * 400, "B": 400 + LAYER + EMBEDDING}),
    ],
)
def test_weights_are_where_their_layers_are(
    settings: dict[str, Any], layers: dict[str, int], main: int, gpus: dict[str, int], tmp_path: Path
) -> None:
    found = estimate(named(tmp_path), options(**settings), layers)
    assert found.weights_bytes == main
    assert {name: share.weights_bytes for name, share in found.gpus.items()} == gpus


def test_an_output_of_its_own_leaves_main_memory(tmp_path: Path) -> None:
    found = estimate(named(tmp_path, output=True), options(), {"A": 5})
    assert (found.weights_bytes, found.gpus["A"].weights_bytes) == (EMBEDDING, 4 * LAYER + EMBEDDING)


def test_what_a_gpu_computes_with(tmp_path: Path) -> None:
    """The logits of a batch, where the output layer is; and the scores of all heads without flash attention."""
    found = estimate(named(tmp_path), options(), {"A": 2, "B": 3})
    assert [share.compute_bytes for share in found.gpus.values()] == [512 * 4 * (8 * 10 + 4 * 20), LOGITS]
    heads = {"llama__attention__head_count": 2}
    plain, without = (
        estimate(named(tmp_path, **heads), options(1000, **settings), {"A": 5}).gpu_bytes["A"]
        for settings in ({}, {"flash_attn": "off", "ubatch_size": 512})
    )
    assert without - plain == 2 * 512 * 4 * 1000
    # No more tokens are computed at once than there are cells.
    short = estimate(named(tmp_path), options(64), {"A": 5}).gpus["A"]
    assert short.compute_bytes == LOGITS * 64 // 512


def test_the_cache_is_where_its_layers_are(tmp_path: Path) -> None:
    heads = {"llama__attention__head_count": 2}
    row = 2 * 10 * 2
    found = estimate(named(tmp_path, **heads), options(), {"A": 2, "B": 1})
    assert found.cell_bytes == 2 * row
    assert {name: share.cell_bytes for name, share in found.gpus.items()} == {"A": 2 * row, "B": 0}
    kept = estimate(named(tmp_path, **heads), options(kv_offload=False), {"A": 5})
    assert (kept.cell_bytes, kept.gpus["A"].cell_bytes) == (4 * row, 0)


def test_drafts_and_adapters_count_and_files_that_are_gone_do_not(tmp_path: Path) -> None:
    for name in ("draft", "adapter"):
        (tmp_path / name).write_bytes(bytes(1000))
    given = EngineOptions(
        draft_paths=(str(tmp_path / "draft"), str(tmp_path / "gone")),
        adapters=(Adapter("a", str(tmp_path / "adapter")),),
    )
    assert estimate(sized(tmp_path), given).weights_bytes == 1_002_000


@pytest.mark.parametrize(
    ("layers", "on_gpus"),
    [
        ({}, {}),
        # Of three layers of the draft model the last one is the output.
        ({"A": 1}, {"A": 1}),
        ({"A": 2}, {"A": 2}),
        ({"A": 5}, {"A": 3}),
        ({"A": 2, "B": 2}, {"A": 2, "B": 1}),
    ],
)
def test_a_draft_model_has_its_own_layers_cache_and_buffers(
    layers: dict[str, int], on_gpus: dict[str, int], tmp_path: Path
) -> None:
    """As many of them on the same GPUs, shared out alike."""
    model = named(tmp_path, llama__attention__head_count=2)
    draft = sized(tmp_path)
    given = msgspec.structs.replace(options(1000), draft_paths=("/draft",))
    known = Details(draft=Draft(draft.facts, draft.size_bytes))
    own, other = estimate(model, options(1000), layers), estimate(draft, options(1000), on_gpus)
    both = estimate(model, given, layers, known)
    assert both.total_bytes == own.total_bytes + other.total_bytes - other.process_bytes
    assert both.gpu_bytes == {name: own.gpu_bytes[name] + other.gpu_bytes[name] for name in layers}


@pytest.mark.parametrize(("gpu_layers", "number"), [("all", 5), ("auto", 5), (3, 3), (4, 4), (9, 5)])
def test_a_draft_model_with_more_layers_than_the_other_one(gpu_layers: int | str, number: int, tmp_path: Path) -> None:
    draft, packed = named(tmp_path), options(1000, gpu_layers=gpu_layers)
    given = msgspec.structs.replace(packed, draft_paths=("/draft",))
    known = Details(draft=Draft(draft.facts, draft.size_bytes))
    own, other = estimate(sized(tmp_path), packed, {"A": 3}), estimate(draft, packed, {"A": number})
    assert estimate(sized(tmp_path), given, {"A": 3}, known).gpu_bytes["A"] == own.gpu_bytes["A"] + other.gpu_bytes["A"]


def test_a_header_that_says_nothing(tmp_path: Path) -> None:
    assert estimate(fake_model("echo"), options()).cache_bytes == 0
