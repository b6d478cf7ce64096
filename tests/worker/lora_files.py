"""LoRA adapters with random weights for any model, as llama.cpp's converter would write them. A strength of 1 changes
what small models say at once."""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from shimmy.models.gguf import read_header

QUERIES_AND_VALUES = r"blk\.\d+\.attn_[qv]\.weight"


def adapter(
    path: Path,
    base: Path,
    *,
    seed: int = 1,
    rank: int = 4,
    alpha: float = 8.0,
    strength: float = 1.0,
    targets: str = QUERIES_AND_VALUES,
    **metadata: Any,
) -> Path:
    """`metadata` replaces what the header says, `__` for a dot; None leaves a key out. `rank`, `alpha` as in LoRA:
    what is added to a tensor is scaled by their quotient."""
    header, dice = read_header(str(base)), np.random.default_rng(seed)
    keys: dict[str, Any] = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    keys |= {key.replace("__", "."): value for key, value in metadata.items()}
    writer = gguf.GGUFWriter(path, keys.pop("general.architecture", None) or header.architecture or "")
    for key, value in keys.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for tensor in (each for each in header.tensors if len(each.shape) > 1):
        if re.fullmatch(targets, tensor.name):
            width, height, *rest = tensor.shape
            # Rows of an embedding are looked up, not multiplied.
            is_table = tensor.name == "token_embd.weight"
            down = dice.standard_normal((height, rank) if is_table else (*rest[::-1], rank, width)) * width**-0.5
            up = (
                dice.standard_normal((width, rank) if is_table else (*rest[::-1], height, rank)) * strength * rank**-0.5
            )
            writer.add_tensor(f"{tensor.name}.lora_a", down.astype(np.float32))
            writer.add_tensor(f"{tensor.name}.lora_b", up.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
