"""How much memory a model will take, main memory and that of GPUs, from what its header says. Knows no figure of this
machine.

A context that can grow takes memory as it is used, so only what a model needs at the least counts here; what it takes
beyond that is seen when it is taken. Formats and sizes are llama.cpp's (llama-kv-cache.cpp, ggml.c).
"""

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from shimmy.core.startup import EngineOptions

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.models.facts import Weights
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


class Share(msgspec.Struct, frozen=True):
    """What a model takes of one GPU, in bytes; `cell` is a token of context."""

    weights_bytes: int
    compute_bytes: int
    cell_bytes: int


class Estimate(msgspec.Struct, frozen=True):
    """Of main memory, in bytes, and of GPUs. `weights` with those of adapters and the draft model; `cell` is a token of
    context."""

    weights_bytes: int
    process_bytes: int
    compute_bytes: int
    cell_bytes: int
    num_cells: int
    gpus: dict[str, Share] = {}

    @property
    def cache_bytes(self) -> int:
        return self.cell_bytes * self.num_cells

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.process_bytes + self.compute_bytes + self.cache_bytes

    @property
    def gpu_bytes(self) -> dict[str, int]:
        """By the name of the GPU."""
        return {
            name: share.weights_bytes + share.compute_bytes + share.cell_bytes * self.num_cells
            for name, share in self.gpus.items()
        }

    def with_cells(self, num_cells: int) -> "Estimate":
        return msgspec.structs.replace(self, num_cells=num_cells)


def estimate(model: "Model", options: EngineOptions, layers: Mapping[str, int] | None = None) -> Estimate:
    """What the model takes before it has been asked anything long. Of a header that is silent only weights count.
    `layers` is how many each GPU has; without it, so many as the settings say, of a GPU without a name."""
    return Estimator(model, options).of(layers)


class Estimator:
    """For one model and the options it is loaded with."""

    def __init__(self, model: "Model", options: EngineOptions) -> None:
        self.settings = settings = _settings(options)
        self._facts = facts = model.facts
        self._options = options
        self._size_bytes = model.size_bytes
        self._more_bytes = _file_bytes(options)
        blocks = (facts.num_layers if facts is not None else None) or 0
        # The output layer counts as one.
        self.num_layers = blocks + 1
        self._weights = (facts.weights if facts is not None else None) or _even(model.size_bytes, blocks)
        row = (facts.cache_row if facts is not None else None) or (0, 0)
        types = (settings.cache_type_k, settings.cache_type_v) if settings is not None else (None, None)
        pairs = zip(row, types, strict=True)
        self._cell_bytes = sum(count * _BLOCK_BYTES[kind or "f16"] // 32 for count, kind in pairs)
        if facts is not None and facts.is_encoder:
            self._cell_bytes = 0

    def of(self, layers: Mapping[str, int] | None = None) -> Estimate:
        """See `estimate`."""
        if layers is None:
            wanted = self.settings.num_gpu_layers if self.settings is not None else 0
            layers = {"": self.num_layers if wanted < 0 else min(wanted, self.num_layers)}
        gpus = self._shares({name: count for name, count in layers.items() if count})
        # What makes vectors of tokens stays, though it may be on a GPU as well, for the output layer.
        gone = sum(share.weights_bytes for share in gpus.values()) - (0 if self._weights.output else self._output(gpus))
        weights = max(0, self._size_bytes + self._more_bytes - gone)
        facts = self._facts
        if facts is None:
            return Estimate(weights, _PROCESS_BYTES, 0, 0, 0, gpus)
        longest = min(self._options.context_length or (1 << 62), facts.context_length or FIXED_CELLS)
        grows = sys.platform == "linux" and not gpus
        return Estimate(
            weights_bytes=weights,
            process_bytes=_PROCESS_BYTES + _VOCABULARY_BYTES * (facts.vocabulary_size or 0),
            compute_bytes=self._layer_compute_bytes,
            cell_bytes=self._cell_bytes - sum(share.cell_bytes for share in gpus.values()),
            num_cells=min(longest, FIRST_CELLS if grows else self._options.context_length or FIXED_CELLS),
            gpus=gpus,
        )

    def _shares(self, layers: Mapping[str, int]) -> dict[str, Share]:
        """The last layers, in the order of the GPUs. Adapters and draft models are shared out like them."""
        shares = {}
        at = self.num_layers - sum(layers.values())
        for name, count in layers.items():
            at += count
            has_output = at == self.num_layers
            blocks = count - has_output
            weights = self._blocks_bytes(at - count, blocks) + self._more_bytes * count // self.num_layers
            compute = self._layer_compute_bytes
            if has_output:
                weights += self._weights.output or self._weights.input
                compute = max(compute, self._output_compute_bytes)
            keeps_cache = self.settings is None or self.settings.kv_offload
            cell = self._cell_bytes * blocks // max(1, self.num_layers - 1) if keeps_cache else 0
            shares[name] = Share(weights, compute, cell)
        return shares

    def _output(self, gpus: Mapping[str, Share]) -> int:
        """Bytes of the input that some GPU has for an output, too."""
        return self._weights.input if gpus else 0

    def _blocks_bytes(self, first: int, count: int) -> int:
        """Of `count` layers from the one of this number on, without the experts that stay."""
        num_blocks, settings = max(1, self.num_layers - 1), self.settings
        weights = self._weights
        kept = 0
        if settings is not None and settings.cpu_moe:
            kept = count
        elif settings is not None and settings.n_cpu_moe:
            kept = min(count, max(0, settings.n_cpu_moe - first))
        return weights.layers * count // num_blocks - weights.experts * kept // num_blocks

    @property
    def _ubatch_tokens(self) -> int:
        return (self.settings.ubatch_size if self.settings is not None else None) or _UBATCH_TOKENS

    @property
    def _layer_compute_bytes(self) -> int:
        if self._facts is None:
            return 0
        width, inner = self._facts.embedding_length or 0, self._facts.feed_forward_length or 0
        return self._ubatch_tokens * _FLOAT_BYTES * (8 * width + 4 * inner)

    @property
    def _output_compute_bytes(self) -> int:
        """For the logits of all tokens of a batch, which a GPU has memory for from the start."""
        if self._facts is None:
            return 0
        return self._ubatch_tokens * _FLOAT_BYTES * ((self._facts.vocabulary_size or 0) + 2 * (self._facts.embedding_length or 0))


def _even(size_bytes: int, num_blocks: int) -> "Weights":
    """Of a file that does not say more: all layers alike, with the output."""
    from shimmy.models.facts import Weights

    layers = size_bytes * num_blocks // (num_blocks + 1)
    return Weights(layers=layers, experts=0, input=0, output=size_bytes - layers)


def _settings(options: EngineOptions) -> "EngineSettings | None":
    if not options.settings:
        return None
    from shimmy.core.engine_settings import EngineSettings

    return msgspec.msgpack.decode(options.settings, type=EngineSettings)


def _file_bytes(options: EngineOptions) -> int:
    total = 0
    for path in (*options.draft_paths, *(adapter.path for adapter in options.adapters)):
        try:
            total += os.path.getsize(path)
        except OSError:
            # The worker says better what is wrong with it.
            continue
    return total
