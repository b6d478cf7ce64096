"""How much main memory a model will take, from what its header says. Knows no figure of this machine.

A context that can grow takes memory as it is used, so only what a model needs at the least counts here; what it takes
beyond that is seen when it is taken. Formats and sizes are llama.cpp's (llama-kv-cache.cpp, ggml.c).
"""

import os
import sys
from typing import TYPE_CHECKING

import msgspec

from shimmy.core.startup import EngineOptions

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.models.listing import Model

# So many tokens of context are given without a look at the memory, and are all where a context cannot grow.
FIRST_CELLS = 2048
FIXED_CELLS = 8192
_UBATCH_TOKENS = 512
# A Python process with its libraries, and what it keeps for each token of the vocabulary.
_PROCESS_BYTES = 16 << 20
_VOCABULARY_BYTES = 200
_FLOAT_BYTES = 4
# Bytes of 32 numbers, by the type of the KV cache.
_BLOCK_BYTES = {
    "f32": 128,
    "f16": 64,
    "bf16": 64,
    "q8_0": 34,
    "q5_1": 24,
    "q5_0": 22,
    "q4_1": 20,
    "q4_0": 18,
    "iq4_nl": 18,
}


class Estimate(msgspec.Struct, frozen=True):
    """In bytes. `weights` with those of adapters and the draft model; `cell` is a token of context."""

    weights_bytes: int
    process_bytes: int
    compute_bytes: int
    cell_bytes: int
    num_cells: int

    @property
    def cache_bytes(self) -> int:
        return self.cell_bytes * self.num_cells

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.process_bytes + self.compute_bytes + self.cache_bytes

    def with_cells(self, num_cells: int) -> "Estimate":
        return msgspec.structs.replace(self, num_cells=num_cells)


def estimate(model: "Model", options: EngineOptions) -> Estimate:
    """What the model takes before it has been asked anything long. Of a header that is silent only weights count."""
    settings = _settings(options)
    facts = model.facts
    on_gpus = _share_on_gpus(settings, facts.num_layers if facts is not None else None)
    weights = int(model.size_bytes * (1 - on_gpus)) + _file_bytes(options)
    if facts is None:
        return Estimate(weights, _PROCESS_BYTES, 0, 0, 0)
    width, inner = facts.embedding_length or 0, facts.feed_forward_length or 0
    types = (settings.cache_type_k, settings.cache_type_v) if settings is not None else (None, None)
    row = zip(facts.cache_row or (0, 0), types, strict=True)
    cell_bytes = sum(count * _BLOCK_BYTES[kind or "f16"] // 32 for count, kind in row)
    grows = sys.platform == "linux" and not on_gpus
    longest = min(options.context_length or (1 << 62), facts.context_length or FIXED_CELLS)
    return Estimate(
        weights_bytes=weights,
        process_bytes=_PROCESS_BYTES + _VOCABULARY_BYTES * (facts.vocabulary_size or 0),
        compute_bytes=_UBATCH_TOKENS * _FLOAT_BYTES * (8 * width + 4 * inner),
        cell_bytes=0 if facts.is_encoder else int(cell_bytes * (1 - on_gpus)),
        num_cells=min(longest, FIRST_CELLS if grows else options.context_length or FIXED_CELLS),
    )


def _settings(options: EngineOptions) -> "EngineSettings | None":
    if not options.settings:
        return None
    from shimmy.core.engine_settings import EngineSettings

    return msgspec.msgpack.decode(options.settings, type=EngineSettings)


def _share_on_gpus(settings: "EngineSettings | None", num_layers: int | None) -> float:
    """The output layer counts as one."""
    wanted = settings.num_gpu_layers if settings is not None else 0
    if wanted < 0:
        return 1.0
    return min(1.0, wanted / (num_layers + 1)) if num_layers else float(wanted > 0)


def _file_bytes(options: EngineOptions) -> int:
    total = 0
    for path in (*options.draft_paths, *(adapter.path for adapter in options.adapters)):
        try:
            total += os.path.getsize(path)
        except OSError:
            # The worker says better what is wrong with it.
            continue
    return total
