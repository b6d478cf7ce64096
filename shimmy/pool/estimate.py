"""How much memory a model will take, main memory and that of GPUs, from what its header says. Knows no figure of this
machine.

A context that can grow takes memory as it is used, so only what a model needs at the least counts here; what it takes
beyond that is seen when it is taken. Formats and sizes are llama.cpp's (llama-kv-cache.cpp, ggml.c).
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import msgspec

from shimmy.core.startup import EngineOptions

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.models.facts import Facts, Weights
    from shimmy.models.listing import Model

# So many tokens of context are given without a look at the memory, and are all where a context cannot grow.
FIRST_CELLS = 2048
FIXED_CELLS = 8192
_UBATCH_TOKENS = 512
# A Python process with its libraries, and what it keeps for each token of the vocabulary.
_PROCESS_BYTES = 16 << 20
_VOCABULARY_BYTES = 200
_FLOAT_BYTES = 4
# Where the settings say that layers go to some GPU, and nobody knows which there are.
UNNAMED_GPU = "GPU"
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


class Draft(NamedTuple):
    """A draft model, by its header and files."""

    facts: "Facts | None"
    size_bytes: int


class Details(msgspec.Struct, frozen=True):
    """What is known from files beside the facts of a model. `moved` has the bytes of tensors that do not go where their
    layer does, by the number of that (-1 for what makes vectors of tokens) and the device that they go to; None without
    rules of one's own. `blocks` has the bytes of each layer, where those of its tensors are told apart."""

    CPU: ClassVar[str] = "CPU"

    draft: Draft | None = None
    moved: Mapping[tuple[int, str], int] | None = None
    blocks: Mapping[int, int] = {}


class Share(msgspec.Struct, frozen=True):
    """What a model takes of one GPU, in bytes; `cell` is a token of context."""

    weights_bytes: int
    compute_bytes: int
    cell_bytes: int

    def __add__(self, other: "Share") -> "Share":
        return Share(
            self.weights_bytes + other.weights_bytes,
            self.compute_bytes + other.compute_bytes,
            self.cell_bytes + other.cell_bytes,
        )


_NOTHING = Share(0, 0, 0)


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

    def beside(self, draft: "Estimate") -> "Estimate":
        """With a draft model in the same process, which has as many cells."""
        names = self.gpus | draft.gpus
        return msgspec.structs.replace(
            self,
            weights_bytes=self.weights_bytes + draft.weights_bytes,
            compute_bytes=self.compute_bytes + draft.compute_bytes,
            cell_bytes=self.cell_bytes + draft.cell_bytes,
            gpus={name: self.gpus.get(name, _NOTHING) + draft.gpus.get(name, _NOTHING) for name in names},
        )


def estimate(
    model: "Model", options: EngineOptions, layers: Mapping[str, int] | None = None, details: Details | None = None
) -> Estimate:
    """What the model takes before it has been asked anything long. Of a header that is silent only weights count, and
    of a draft model without `details`. `layers` is how many each GPU has; without it, so many as the settings say, of a
    GPU without a name."""
    return Estimator(model, options, details).of(layers)


class Estimator:
    """For one model and the options it is loaded with."""

    def __init__(self, model: "Model | Draft", options: EngineOptions, details: Details | None = None) -> None:
        self.settings = settings = settings_of(options)
        facts = model.facts
        self._draft = _of_draft(options, details) if options.draft_paths else None
        self._moved = details.moved if details is not None else None
        self._blocks = details.blocks if details is not None else {}
        self._is_silent = facts is None
        self._size_bytes = model.size_bytes
        self._more_bytes = file_bytes([adapter.path for adapter in options.adapters])
        self._num_blocks = num_blocks = (facts.num_layers if facts is not None else None) or 0
        self._weights = (facts.weights if facts is not None else None) or _even(model.size_bytes, num_blocks)
        self._vocabulary_size = (facts.vocabulary_size if facts is not None else None) or 0
        self._cell_bytes = _cell_bytes(facts, settings) if facts is not None and not facts.is_encoder else 0
        wanted, longest = options.context_length, facts.context_length if facts is not None else None
        longest = min(wanted or (1 << 62), longest or FIXED_CELLS)
        self._fixed_cells = min(longest, wanted or FIXED_CELLS)
        self._first_cells = min(longest, FIRST_CELLS)
        self._compute_bytes = self._output_bytes = self._scores_bytes = 0
        if facts is not None:
            self._set_buffers(facts, settings)

    def _set_buffers(self, facts: "Facts", settings: "EngineSettings | None") -> None:
        """What is computed with, for as many tokens as are computed at once."""
        width, inner = facts.embedding_length or 0, facts.feed_forward_length or 0
        at_once = (settings.ubatch_size if settings is not None else None) or _UBATCH_TOKENS
        floats = _FLOAT_BYTES * min(at_once, self._fixed_cells)
        self._compute_bytes = floats * (8 * width + 4 * inner)
        # With the logits of all of them: on a GPU all of a buffer is there from the start.
        self._output_bytes = floats * (self._vocabulary_size + 2 * width)
        has_scores = settings is not None and settings.flash_attn == "off"
        self._scores_bytes = floats * (facts.num_heads or 0) if has_scores else 0

    @property
    def num_layers(self) -> int:
        """The output layer counts as one."""
        return self._num_blocks + 1

    def of(self, layers: Mapping[str, int] | None = None) -> Estimate:
        """See `estimate`."""
        if layers is None:
            wanted = self.settings.num_gpu_layers if self.settings is not None else 0
            layers = {UNNAMED_GPU: self.num_layers if wanted < 0 else min(wanted, self.num_layers)}
        own = self._own(layers)
        if self._draft is None:
            return own
        from shimmy.pool.offload import share

        return own.beside(self._draft.of(share(self._num_draft_layers(sum(layers.values())), layers)))

    def _num_draft_layers(self, number: int) -> int:
        """On GPUs, if the model itself has so many there: llama.cpp gets the same number for both, or is to put all
        layers there."""
        most = self._draft.num_layers if self._draft is not None else 0
        if number == self.num_layers and self.settings is not None:
            number = self.settings.num_gpu_layers
        return most if number < 0 else min(number, most)

    def _own(self, layers: Mapping[str, int]) -> Estimate:
        num_on_gpus = sum(layers.values())
        gpus = self._shares({name: count for name, count in layers.items() if count})
        gone = sum(share.weights_bytes for share in gpus.values())
        if gpus and not self._weights.output:
            # What makes vectors of tokens is in both places then.
            gone -= self._weights.input
        weights = max(0, self._size_bytes + self._more_bytes - gone)
        if self._is_silent:
            return Estimate(weights, _PROCESS_BYTES, 0, 0, 0, gpus)
        return Estimate(
            weights_bytes=weights,
            process_bytes=_PROCESS_BYTES + _VOCABULARY_BYTES * self._vocabulary_size,
            compute_bytes=self._compute_bytes,
            cell_bytes=self._cell_bytes - self._cells_on_gpus(max(0, num_on_gpus - 1)),
            num_cells=self._first_cells if sys.platform == "linux" and not gpus else self._fixed_cells,
            gpus=gpus,
        )

    def _shares(self, layers: Mapping[str, int]) -> dict[str, Share]:
        """The last layers, in the order of the GPUs. Adapters are small: they count there as a whole."""
        shares = {}
        num_layers = sum(layers.values())
        at = self.num_layers - num_layers
        for name, count in layers.items():
            num_blocks = min(count, self._num_blocks - at)
            weights = self._blocks_bytes(at, num_blocks) + self._more_bytes * count // num_layers
            compute = self._compute_bytes
            if num_blocks < count:
                weights += self._weights.output or self._weights.input
                compute = max(compute, self._output_bytes)
            shares[name] = Share(weights, compute, self._cells_on_gpus(num_blocks) + self._scores_bytes)
            at += count
        return self._with_moved(shares, layers)

    def _with_moved(self, shares: dict[str, Share], layers: Mapping[str, int]) -> dict[str, Share]:
        """Each tensor that a rule moves is where that says, if anything is on a GPU at all."""
        homes = [name for name, count in layers.items() for _ in range(count)]
        first = self.num_layers - len(homes)
        for (layer, place), num_bytes in (self._moved or {}).items() if homes else ():
            home = homes[layer - first] if first <= layer < self.num_layers and layer >= 0 else Details.CPU
            for name, sign in ((home, -1), (place, 1)):
                if name != Details.CPU and home != place:
                    shares[name] = shares.get(name, _NOTHING) + Share(sign * num_bytes, 0, 0)
        return shares

    def _cells_on_gpus(self, num_blocks: int) -> int:
        """Of a token of context, if so many layers are there."""
        if self.settings is not None and not self.settings.kv_offload:
            return 0
        return self._cell_bytes * num_blocks // max(1, self._num_blocks)

    def _blocks_bytes(self, first: int, count: int) -> int:
        """Of `count` layers from the one of this number on, without the experts that stay."""
        if self._blocks:
            # What stays is among what is moved.
            return sum(self._blocks.get(number, 0) for number in range(first, first + count))
        weights, settings = self._weights, self.settings
        num_kept = 0
        if settings is not None and settings.cpu_moe:
            num_kept = count
        elif settings is not None and settings.n_cpu_moe:
            num_kept = min(count, max(0, settings.n_cpu_moe - first))
        return (weights.layers * count - weights.experts * num_kept) // max(1, self._num_blocks)


def _cell_bytes(facts: "Facts", settings: "EngineSettings | None") -> int:
    types = (settings.cache_type_k, settings.cache_type_v) if settings is not None else (None, None)
    pairs = zip(facts.cache_row or (0, 0), types, strict=True)
    return sum(count * _BLOCK_BYTES[kind or "f16"] // 32 for count, kind in pairs)


def _even(size_bytes: int, num_blocks: int) -> "Weights":
    """Of a file that does not say more: all layers alike, with the output."""
    from shimmy.models.facts import Weights

    layers = size_bytes * num_blocks // (num_blocks + 1)
    return Weights(layers=layers, experts=0, input=0, output=size_bytes - layers)


def settings_of(options: EngineOptions) -> "EngineSettings | None":
    """Unpacked, if anything of them is set."""
    if not options.settings:
        return None
    from shimmy.core.engine_settings import EngineSettings

    return msgspec.msgpack.decode(options.settings, type=EngineSettings)


def _of_draft(options: EngineOptions, details: Details | None) -> Estimator:
    """As the worker loads it (worker/loading.py)."""
    settings = settings_of(options)
    packed = b"" if settings is None else msgspec.msgpack.encode(settings.for_draft())
    own = msgspec.structs.replace(options, draft_paths=(), adapters=(), settings=packed)
    known = details.draft if details is not None else None
    return Estimator(known or Draft(None, file_bytes(options.draft_paths)), own)


def file_bytes(paths: Sequence[str]) -> int:
    total = 0
    for path in paths:
        try:
            total += os.path.getsize(path)
        except OSError:
            # The worker says better what is wrong with it.
            continue
    return total
