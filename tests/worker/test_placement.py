"""Where the tensors of a model go, by llama.cpp's own account, with two more devices that have memory of their own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shimmy.core.engine_settings import EngineSettings, SplitMode
from shimmy.core.ipc import EngineOptions
from shimmy.models.facts import inspect
from shimmy.pool.details import details
from shimmy.pool.estimate import Estimate, estimate
from shimmy.worker.llama import abi
from shimmy.worker.llama.tuning import tune_model
from tests.fakes.pool import fake_model
from tests.fakes.remote_gpu import CONTEXT_LENGTH, load, remote_gpus
from tests.program import DEMO
from tests.worker import tiny_models
from tests.worker.lora_files import adapter

pytestmark = pytest.mark.model
NUM_LAYERS = 4
PARTS = ("down", "gate", "up")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with remote_gpus(2) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("experts") / "experts.gguf"
    tiny_models.experts(path)
    return path


@pytest.fixture(scope="module")
def plain(endpoint: str, model: Path) -> dict[str, Any]:
    return load(endpoint, model)


def experts(layers: range) -> set[str]:
    return {f"blk.{layer}.ffn_{part}_exps.weight" for layer in layers for part in PARTS}


def remote_bytes(told: dict[str, Any]) -> int:
    """Of the weights, as far as they are on the other devices."""
    return sum(size for kind, size in told["buffers"].items() if kind.startswith("RPC"))


def test_nothing_goes_there_unasked(plain: dict[str, Any]) -> None:
    assert plain["layers"] == {"CPU": NUM_LAYERS + 1}
    assert set(plain["buffers"]) == {"CPU_Mapped"} and not plain["overridden"]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, range(0)),
        ({"cpu_moe": True}, range(NUM_LAYERS)),
        ({"n_cpu_moe": 2}, range(2)),
        ({"n_cpu_moe": 0}, range(0)),
        ({"n_cpu_moe": 99}, range(NUM_LAYERS)),
    ],
)
def test_experts_stay_on_the_cpu(
    settings: dict[str, Any], kept: range, endpoint: str, model: Path, plain: dict[str, Any]
) -> None:
    """The layers go to the GPU all the same, and the answer is the same."""
    told = load(endpoint, model, gpu_layers="all", device=["RPC0"], **settings)
    assert told["layers"] == {"RPC0": NUM_LAYERS + 1}
    assert told["overridden"] == dict.fromkeys(experts(kept), "CPU")
    expert_bytes = len(experts(kept)) * 4 * 64 * 128 * 4
    assert told["buffers"]["CPU_Mapped"] >= expert_bytes
    assert remote_bytes(told) == pytest.approx(sum(plain["buffers"].values()) - expert_bytes, abs=100_000)
    assert told["text"] == plain["text"]


def test_other_tensors_can_be_kept_too(endpoint: str, model: Path, plain: dict[str, Any]) -> None:
    rules = [r"blk\.[01]\.attn_q\.=CPU", f"attn_k.weight=RPC0[{endpoint}]"]
    told = load(endpoint, model, gpu_layers="all", device=["RPC0"], override_tensor=rules)
    queries = dict.fromkeys([f"blk.{layer}.attn_q.weight" for layer in range(2)], "CPU")
    keys = dict.fromkeys([f"blk.{layer}.attn_k.weight" for layer in range(4)], f"RPC0[{endpoint}]")
    assert told["overridden"] == queries | keys
    assert told["text"] == plain["text"]
    for absent in ("TPU", f"RPC1[{endpoint}]"):
        error = load(endpoint, model, device=["RPC0"], override_tensor=[f"x={absent}"])["error"]
        assert error == f"override-tensor: there is no buffer type {absent!r}, but CPU, RPC0[{endpoint}]"
    assert "error" in load(endpoint, model, gpu_layers="all", override_tensor=["(=CPU"])


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"gpu_layers": 2}, {"CPU": 3, "RPC0": 1, "RPC1": 1}),
        ({"gpu_layers": "all", "tensor_split": [4, 1]}, {"RPC0": 4, "RPC1": 1}),
        ({"gpu_layers": "all", "tensor_split": [0, 1]}, {"RPC1": 5}),
        ({"gpu_layers": "all", "main_gpu": 1}, {"RPC1": 5}),
        ({"gpu_layers": "all", "split_mode": "none"}, {"RPC0": 5}),
        ({"split_mode": "layer", "tensor_split": [4, 1]}, {"RPC0": 4, "RPC1": 1}),
        ({"gpu_layers": 0, "split_mode": "layer", "tensor_split": [4, 1, 1]}, {"CPU": 5}),
        ({"device": ["rpc1"]}, {"RPC1": 5}),
        ({"device": ["RPC1", "RPC0"], "main_gpu": 1}, {"RPC0": 5}),
    ],
)
def test_layers(settings: dict[str, Any], layers: dict[str, int], endpoint: str, model: Path) -> None:
    assert load(endpoint, model, **settings)["layers"] == layers


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"gpu_layers": "all", "main_gpu": 2}, "main-gpu is 2, counted from 0, but the number of GPUs is 2"),
        ({"device": ["RPC0"], "main_gpu": 1}, "main-gpu is 1, counted from 0, but the number of GPUs is 1"),
        ({"gpu_layers": 1, "tensor_split": [1, 1, 1]}, "tensor-split has 3 parts, but the number of GPUs is 2"),
        ({"device": ["CUDA0"]}, "there is no GPU 'CUDA0', but RPC0, RPC1"),
    ],
)
def test_gpus_that_are_not_there(settings: dict[str, Any], error: str, endpoint: str, model: Path) -> None:
    assert load(endpoint, model, **settings)["error"].startswith(error)


def estimated(path: Path, layers: dict[str, int], drafts: tuple[str, ...] = (), **settings: Any) -> Estimate:
    facts = inspect((str(path),)).facts
    model = msgspec.structs.replace(fake_model("one"), paths=(str(path),), size_bytes=path.stat().st_size, facts=facts)
    packed = msgspec.msgpack.encode(EngineSettings(**settings))
    options = EngineOptions(context_length=CONTEXT_LENGTH, settings=packed, draft_paths=drafts)
    gpus = {name: count for name, count in layers.items() if name != "CPU"}
    return estimate(model, options, gpus, details(model, options))


@pytest.mark.parametrize(
    ("settings", "draft"),
    [({"gpu_layers": 12}, None), ({"gpu_layers": "all", "flash_attn": "off"}, None), ({"gpu_layers": 12}, DEMO)],
)
def test_what_was_estimated_is_taken(settings: dict[str, Any], draft: Path | None, endpoint: str) -> None:
    """By weights, cache and buffers for computing of the demo model, and of another one that guesses for it."""
    told = load(endpoint, DEMO, draft, device=["RPC0"], **settings)
    drafts = () if draft is None else (str(draft),)
    guess = estimated(DEMO, {"RPC0": told["layers"]["RPC0"]}, drafts, **settings).gpu_bytes
    assert told["gpus"] == pytest.approx(guess, rel=0.03)


@pytest.mark.parametrize(
    ("settings", "rules"),
    [
        ({"cpu_moe": True}, []),
        ({}, [r"blk\.[23]\.attn=RPC0", "ffn_(up|gate)_exps=RPC1"]),
        ({}, ["token_embd=CPU", "output_norm=RPC0"]),
        # What a rule of one's own says of experts holds.
        ({"n_cpu_moe": 3, "gpu_layers": 3}, [r"blk\.2\.ffn_up_exps=RPC0"]),
    ],
)
def test_weights_that_are_moved_are_estimated_where_they_are(
    settings: dict[str, Any], rules: list[str], endpoint: str, model: Path
) -> None:
    """To a few kilobytes, with which llama.cpp rounds up."""
    named = [f"{rule}[{endpoint}]" if "=RPC" in rule else rule for rule in rules]
    asked = {"gpu_layers": "all", "tensor_split": [3, 2], "override_tensor": named} | settings
    told = load(endpoint, model, **asked)
    guess = estimated(model, told["layers"], **asked).gpus
    for name in ("RPC0", "RPC1"):
        weights = sum(size for kind, size in told["buffers"].items() if kind.partition("[")[0] == name)
        assert guess[name].weights_bytes == pytest.approx(weights, abs=20_000)


@pytest.mark.parametrize(("mode", "number"), [("none", 0), ("layer", 1)])
def test_the_mode_is_named_to_llama_cpp(mode: SplitMode, number: int) -> None:
    """Though `layer` is what it does unasked (llama.h, enum llama_split_mode)."""
    row = 2
    parameters = abi.llama_model_params(split_mode=row)
    tune_model(parameters, EngineSettings(split_mode=mode), [1, 2])
    assert parameters.split_mode == number
    parameters = abi.llama_model_params(split_mode=row)
    tune_model(parameters, EngineSettings(gpu_layers="all"), [1, 2])
    assert parameters.split_mode == row


def test_the_cache_can_stay(endpoint: str, model: Path, plain: dict[str, Any]) -> None:
    def caches(**settings: Any) -> set[str]:
        told = load(endpoint, model, gpu_layers="all", main_gpu=0, **settings)
        assert told["text"] == plain["text"]
        return {line.split()[1].partition("[")[0] for line in told["log"] if " KV buffer size = " in line}

    assert (caches(), caches(kv_offload=False)) == ({"RPC0"}, {"CPU"})


def test_an_adapter_is_where_its_layers_are(endpoint: str, model: Path, plain: dict[str, Any], tmp_path: Path) -> None:
    """Those of experts that stay on the CPU, too."""
    targets = r"blk\.\d+\.(attn_q|ffn_up_exps)\.weight"
    file = adapter(tmp_path / "lora.gguf", model, targets=targets)
    wanted = load(endpoint, model, lora=[str(file)])["text"]
    assert wanted != plain["text"]
    told = load(endpoint, model, lora=[str(file)], device=["RPC0"], cpu_moe=True)
    places = {line.split()[1].partition("[")[0] for line in told["log"] if " LoRA buffer size = " in line}
    assert (told["text"], places) == (wanted, {"CPU_Mapped", "RPC0"})
    assert load(endpoint, model, lora=[f"{file}=0"], device=["RPC0"])["text"] == plain["text"]
