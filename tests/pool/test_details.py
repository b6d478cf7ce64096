"""What estimates have from the files themselves: tensors that rules move, and the draft model."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.ipc import EngineOptions
from shimmy.models.facts import inspect
from shimmy.models.listing import Model
from shimmy.pool.details import are_needed, details
from shimmy.pool.estimate import Details, Draft, estimate
from tests.fakes.gguf_writer import TensorSpec
from tests.fakes.gguf_writer import model as header
from tests.fakes.pool import fake_model

# Floats of each kind of tensor.
FLOATS = {"token_embd": 1, "attn_q": 10, "ffn_up_exps": 100, "output_norm": 1000, "output": 10000}


def written(path: Path, *, has_output: bool = True) -> Model:
    names = ["token_embd", *(f"blk.{layer}.{kind}" for layer in range(3) for kind in ("attn_q", "ffn_up_exps"))]
    names += ["output_norm", "output"] if has_output else ["output_norm"]
    file = header(llama__block_count=3)
    file.tensors = [TensorSpec(f"{name}.weight", (FLOATS[name.rpartition(".")[2]],)) for name in names]
    file.write(path)
    return msgspec.structs.replace(fake_model("one"), paths=(str(path),))


def options(*drafts: str, **settings: Any) -> EngineOptions:
    packed = msgspec.msgpack.encode(EngineSettings(**settings)) if settings else b""
    return EngineOptions(settings=packed, draft_paths=drafts)


@pytest.mark.parametrize(
    ("settings", "floats"),
    [
        ({"override_tensor": ["attn=CPU"]}, {(0, "CPU"): 10, (1, "CPU"): 10, (2, "CPU"): 10}),
        ({"override_tensor": [r"blk\.1\.=G1"]}, {(1, "G1"): 110}),
        (
            {"override_tensor": ["attn_q=G0[127.0.0.1:9]", "blk.2=CPU"]},
            {**{(n, "G0"): 10 for n in range(3)}, (2, "CPU"): 100},
        ),
        ({"override_tensor": ["embd=G0", "^output=G1"]}, {(-1, "G0"): 1, (3, "G1"): 11000}),
        ({"override_tensor": ["a=b=G0"]}, {}),
        # What is no pattern moves nothing, and the next rule is looked at.
        ({"override_tensor": ["(=G0", "blk.0=G1"]}, {(0, "G1"): 110}),
        # Nor does what could take for ever: a matching pattern holds up all threads.
        ({"override_tensor": ["(.+)+weight=G0", "(?:k|k.|..)*=G0", "(?x)(.+) +l=G0", "blk.0=G1"]}, {(0, "G1"): 110}),
        ({"override_tensor": [".*.*.*.*.*=G0", "(((((b|.)|.)|.)|.)|.)l=G0", "blk.0=G1"]}, {(0, "G1"): 110}),
        ({"override_tensor": ["a{99999999999}=G0", f"{'(' * 9999}{')' * 9999}=G0", "blk.0=G1"]}, {(0, "G1"): 110}),
        ({"override_tensor": [r"b.*\.[*+)({?0](\.)(?:ffn_(?:up|down)_.+?)s\.(weight|bias)=G0"]}, {(0, "G0"): 100}),
        ({"override_tensor": ["0.*exps=G0"], "cpu_moe": True}, {(0, "G0"): 100, (1, "CPU"): 100, (2, "CPU"): 100}),
        ({"override_tensor": ["0.*exps=G0"], "n_cpu_moe": 2}, {(0, "G0"): 100, (1, "CPU"): 100}),
    ],
)
def test_the_first_rule_that_matches_holds(
    settings: dict[str, Any], floats: dict[tuple[int, str], int], tmp_path: Path
) -> None:
    model = written(tmp_path / "one.gguf")
    assert are_needed(options(**settings))
    assert details(model, options(**settings)).moved == {key: 4 * number for key, number in floats.items()}


def test_what_is_left_of_a_layer_is_right_where_layers_differ(tmp_path: Path) -> None:
    path = tmp_path / "uneven.gguf"
    file = header(llama__block_count=3)
    names = {"token_embd": 1, "blk.0.attn_q": 10, "blk.1.attn_q": 10, "blk.2.attn_q": 10, "blk.2.ffn_up_exps": 100}
    file.tensors = [TensorSpec(f"{name}.weight", (floats,)) for name, floats in (names | {"output": 1000}).items()]
    file.write(path)
    model = msgspec.structs.replace(fake_model("one"), paths=(str(path),), facts=inspect((str(path),)).facts)
    for rule, floats in (("exps=CPU", 1020), ("attn=CPU", 1100), ("blk.0=G0", 1130)):
        given = options(override_tensor=[rule], gpu_layers=3)
        gpus = estimate(model, given, {"G0": 3}, details(model, given)).gpus
        assert gpus["G0"].weights_bytes == 4 * floats


def test_one_tensor_that_makes_vectors_of_tokens_and_back_is_moved_in_both_places(tmp_path: Path) -> None:
    model = written(tmp_path / "one.gguf", has_output=False)
    assert details(model, options(override_tensor=["token_embd=G0"])).moved == {(-1, "G0"): 4, (3, "G0"): 4}


@pytest.mark.parametrize("settings", [{}, {"cpu_moe": True}, {"gpu_layers": "all"}])
def test_without_rules_and_a_draft_model_no_file_is_read(settings: dict[str, Any]) -> None:
    model = msgspec.structs.replace(fake_model("one"), paths=("/absent",))
    assert not are_needed(options(**settings))
    assert details(model, options(**settings)) == Details()


def test_a_file_that_is_gone_moves_nothing() -> None:
    model = msgspec.structs.replace(fake_model("one"), paths=("/absent",))
    assert details(model, options(override_tensor=["attn=CPU"])).moved == {}


def test_a_draft_model(tmp_path: Path) -> None:
    model, path = fake_model("one"), tmp_path / "draft.gguf"
    written(path)
    assert are_needed(options(str(path)))
    found = details(model, options(str(path))).draft
    assert found is not None and found.facts is not None
    assert (found.size_bytes, found.facts.num_layers) == (path.stat().st_size, 3)
    assert details(model, options("/absent")).draft == Draft(None, 0)
