"""The `[engine]` table: which values it takes, and which make no sense together."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shimmy.core.engine_settings import EngineSettings, check, parse_adapter
from shimmy.core.ipc import Adapter


def table(**fields: Any) -> EngineSettings:
    return msgspec.convert({name.replace("_", "-"): value for name, value in fields.items()}, EngineSettings)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"cpu_moe": True, "n_cpu_moe": 3}, "cpu-moe and n-cpu-moe exclude each other"),
        ({"gpu_backend": "cpu", "gpu_layers": 1}, "gpu-backend cpu puts no layers on a GPU, but gpu-layers asks"),
        ({"gpu_backend": "cpu", "device": ["CUDA0"]}, "gpu-backend cpu puts no layers on a GPU, but device asks"),
        ({"gpu_backend": "cpu", "main_gpu": 0}, "gpu-backend cpu puts no layers on a GPU, but main-gpu asks"),
        ({"gpu_backend": "cpu", "split_mode": "layer"}, "gpu-backend cpu puts no layers on a GPU, but split-mode asks"),
        ({"gpu_backend": "cpu", "tensor_split": [1]}, "gpu-backend cpu puts no layers on a GPU, but tensor-split asks"),
        ({"tensor_split": [0, 0], "gpu_layers": 1}, "tensor-split: one part at least must be more than 0"),
        ({"main_gpu": 1, "split_mode": "layer", "gpu_layers": 1}, "main-gpu is for split-mode none, not layer"),
        ({"main_gpu": 1, "tensor_split": [1], "gpu_layers": 1}, "tensor-split is for several GPUs"),
        ({"split_mode": "none", "tensor_split": [1], "gpu_layers": 1}, "tensor-split is for several GPUs"),
        ({"direct_io": True, "mmap": True}, "direct-io and mmap exclude each other"),
        ({"direct_io": True, "mlock": True}, "direct-io and mlock exclude each other"),
        (
            {"cache_type_v": "q8_0", "flash_attn": "off"},
            "cache-type-v q8_0 needs flash attention, but",
        ),
        ({"rope_scaling": "none", "rope_freq_scale": 0.5}, "rope-freq-scale has no effect with rope-scaling none"),
        ({"rope_scaling": "linear", "yarn_orig_ctx": 9}, "yarn-.* settings have no effect with rope-scaling linear"),
        ({"override_tensor": ["blk"]}, "override-tensor: 'blk' is not REGEX=BUFFER TYPE"),
        ({"override_tensor": ["=CPU"]}, "override-tensor: '=CPU' is not"),
        ({"lora": ["absent.gguf"]}, "lora: there is no file 'absent.gguf'"),
    ],
)
def test_what_makes_no_sense_together(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check(table(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cpu_moe": True},
        {"cpu_moe": False, "n_cpu_moe": 3},
        {"gpu_backend": "cpu", "gpu_layers": 0},
        {"gpu_backend": "vulkan", "main_gpu": 3},
        {"device": ["CUDA0", "CUDA1"], "tensor_split": [1, 0.5]},
        {"cache_type_v": "q8_0"},
        {"cache_type_v": "f32", "cache_type_k": "q4_0", "flash_attn": "off"},
        {"rope_freq_scale": 0.5, "yarn_beta_fast": 1},
        {"direct_io": True, "mmap": False},
        {"override_tensor": ["a=b=CPU"]},
    ],
)
def test_what_makes_sense(fields: dict[str, Any]) -> None:
    check(table(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_type_k": "q6_k"},
        {"gpu_layers": -1},
        {"gpu_layers": "some"},
        {"flash_attn": True},
        {"ubatch_size": 0},
        {"ubatch_size": 513},
        {"rope_freq_base": 0},
        {"rope_freq_scale": -1.0},
        {"rope_freq_scale": float("nan")},
        {"yarn_orig_ctx": 0},
        {"tensor_split": [-1]},
        {"mmap": "yes"},
        {"cache-type": "f16"},
    ],
)
def test_values_there_are_not(fields: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        table(**fields)


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({}, 0),
        ({"gpu_layers": "all"}, -1),
        ({"gpu_layers": "auto"}, -1),
        ({"gpu_layers": 7, "device": ["CUDA0"]}, 7),
        ({"device": ["CUDA0"]}, -1),
        ({"gpu_backend": "cuda"}, -1),
        ({"gpu_backend": "cuda", "gpu_layers": 0}, 0),
        ({"gpu_backend": "auto"}, 0),
        ({"gpu_backend": "cpu"}, 0),
        ({"main_gpu": 0}, -1),
        ({"split_mode": "layer"}, -1),
        ({"tensor_split": [3, 1]}, -1),
        ({"tensor_split": [3, 1], "gpu_layers": 0}, 0),
    ],
)
def test_how_many_layers_go_to_a_gpu(fields: dict[str, Any], layers: int) -> None:
    assert table(**fields).num_gpu_layers == layers


@pytest.mark.parametrize(
    ("fields", "fits", "needs"),
    [
        ({}, False, False),
        ({"gpu_layers": "auto"}, True, False),
        ({"gpu_layers": "all"}, False, True),
        ({"gpu_layers": 3}, False, True),
        ({"device": ["CUDA0"]}, True, True),
        ({"gpu_backend": "cuda"}, True, True),
        ({"gpu_backend": "cuda", "gpu_layers": 0}, False, False),
        ({"gpu_backend": "cuda", "gpu_layers": 5}, False, True),
        ({"gpu_backend": "cuda", "gpu_layers": "auto"}, True, True),
        ({"split_mode": "layer"}, True, True),
        ({"split_mode": "layer", "gpu_layers": "auto"}, True, False),
    ],
)
def test_who_chooses_the_number_of_layers_and_whether_none_is_an_error(
    fields: dict[str, Any], fits: bool, needs: bool
) -> None:
    settings = table(**fields)
    assert (settings.fits_gpu_layers, settings.needs_a_gpu) == (fits, needs)


@pytest.mark.parametrize(
    ("fields", "is_silent"),
    [
        ({}, True),
        ({"gpu_backend": "auto", "cpu_moe": True, "cache_type_k": "q8_0"}, True),
        ({"gpu_backend": "cpu"}, False),
        ({"gpu_backend": "cuda"}, False),
        ({"gpu_layers": 0}, False),
        ({"gpu_layers": "auto"}, False),
        ({"main_gpu": 0}, False),
        ({"device": ["CUDA0"]}, False),
    ],
)
def test_what_says_nothing_of_gpus(fields: dict[str, Any], is_silent: bool) -> None:
    assert table(**fields).is_silent_of_gpus is is_silent


def test_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("poet.gguf", "a=0.5", "plain"):
        (tmp_path / name).touch()
    assert parse_adapter("poet.gguf") == Adapter("poet", str(tmp_path / "poet.gguf"), 1.0)
    assert parse_adapter("poet.gguf=-0.5") == Adapter("poet", str(tmp_path / "poet.gguf"), -0.5)
    # What is there as a whole is a file.
    assert parse_adapter("a=0.5") == Adapter("a=0.5", str(tmp_path / "a=0.5"), 1.0)
    assert parse_adapter("a=0.5=2").scale == 2.0
    assert parse_adapter("plain=0").scale == 0.0
    for wrong in ("poet.gguf=much", "poet.gguf=nan", "poet.gguf=101", "poet.gguf=", "=1", "", "."):
        with pytest.raises(ValueError, match="lora: "):
            parse_adapter(wrong)
    with pytest.raises(ValueError, match="two adapters would be called 'poet'"):
        check(EngineSettings(lora=("poet.gguf", "poet.gguf=0.5")))


def test_a_draft_model_has_positions_and_tensors_of_its_own() -> None:
    given = table(rope_freq_base=5.0, yarn_beta_slow=1, n_cpu_moe=1, override_tensor=["a=CPU"], cache_type_k="q8_0")
    assert given.for_draft() == table(cache_type_k="q8_0")
