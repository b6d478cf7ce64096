"""A llama context and its one batch. Only the step thread may touch either.

The context has one KV cache that all sequences share (`kv_unified`). A batch never exceeds `n_batch`, a row is sampled
only when it asked for logits: llama.cpp abort()s otherwise.
"""

import array
import ctypes as c
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shimmy.core.errors import ModelFailed, ShimmyError
from shimmy.worker.adapters import AdapterSet
from shimmy.worker.growth import Growth
from shimmy.worker.llama import abi, backend, threadpool, zeroing
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.model import Model

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings

BATCH_TOKENS = 512
# What a batch may have of logits that are only read, of which llama.cpp keeps a second copy.
_PROMPT_LOGITS_BYTES = 32 << 20
# What makes no difference to a state, whichever context it came from.
_INDIFFERENT = {"n_batch", "n_seq_max", "n_threads", "n_threads_batch", "no_perf"}


class KVCacheFull(Exception):
    """No free cells for the batch; nothing was stored (llama.h, llama_decode returns 1)."""


class DecodeFailed(ShimmyError):
    """llama_decode refused the batch or was interrupted."""


class Batch:
    """Rows of (token, position, sequence), in arrays made once and handed to C as they are."""

    def __init__(self, capacity: int, num_sequences: int) -> None:
        self.capacity = capacity
        self._tokens = array.array("i", bytes(4 * capacity))
        self._positions = array.array("i", bytes(4 * capacity))
        self._wants_logits = array.array("b", bytes(capacity))
        self._sequence_counts = array.array("i", [1] * capacity)
        # Each row points at its sequence's id: one int per sequence, and a pointer per row to one of them.
        self._ids = array.array("i", range(num_sequences))
        self._id_addresses = [self._ids.buffer_info()[0] + 4 * sequence for sequence in range(num_sequences)]
        self._id_pointers = array.array("Q", [self._id_addresses[0]] * capacity)
        self.size = 0
        self.native = abi.llama_batch(
            n_tokens=0,
            token=self._tokens.buffer_info()[0],
            pos=self._positions.buffer_info()[0],
            n_seq_id=self._sequence_counts.buffer_info()[0],
            seq_id=self._id_pointers.buffer_info()[0],
            logits=self._wants_logits.buffer_info()[0],
        )
        self._token_view = memoryview(self._tokens)
        self._position_view = memoryview(self._positions)
        self._logits_view = memoryview(self._wants_logits)
        self._pointer_view = memoryview(self._id_pointers)
        self._flags = [memoryview(array.array("b", [flag]) * capacity) for flag in (0, 1)]

    def clear(self) -> None:
        self.size = 0

    def add(
        self, sequence: int, tokens: "array.array[int]", position: int, *, logits: bool, every: bool = False
    ) -> int:
        """Appends `tokens` of one sequence from `position` on; with `logits` the last row can be sampled, with `every`
        each of them.

        Returns the index of the last row.
        """
        start, end = self.size, self.size + len(tokens)
        if end > self.capacity:
            raise ValueError(f"batch of {end} rows is over its capacity of {self.capacity}")
        self._token_view[start:end] = memoryview(tokens)
        self._position_view[start:end] = memoryview(array.array("i", range(position, position + len(tokens))))
        self._pointer_view[start:end] = memoryview(array.array("Q", [self._id_addresses[sequence]]) * len(tokens))
        self._logits_view[start:end] = self._flags[every][start:end]
        self._wants_logits[end - 1] = logits or every
        self.size = end
        return end - 1


class Context:
    """The KV cache and compute state of one model: sequence ids below `num_sequences` can be decoded, those in
    `holders` can only hold cells.

    A unified cache takes any id below LLAMA_MAX_SEQ; `n_seq_max` bounds only the ids of batches and states
    (llama-kv-cache.cpp, `seq_to_stream`). So holders cost nothing, while each id below `n_seq_max` costs the logits of
    a row, which is 1 MB for a large vocabulary. Recurrent layers, however, have one state for each id that there is.

    Where it `can_grow`, `context_length` is what a sequence may reach, and all may have `num_cells` cells for now.
    """

    def __init__(
        self,
        model: Model,
        *,
        context_length: int,
        num_sequences: int,
        num_threads: int,
        fit_memory: bool = False,
        settings: "EngineSettings | None" = None,
        adapters: Sequence[int] = (),
    ) -> None:
        """With `fit_memory` it is shorter where there is no memory for that length. `adapters` are llama.cpp's handles
        of those that `set_adapters` numbers. Raises `ModelFailed` when llama.cpp cannot make it."""
        self._library = llama()
        max_ids = int(self._library.llama_max_parallel_sequences())
        # One id more, through which the state of a holder is saved.
        self._scratch = num_sequences
        has_holders = not model.reuse.whole and num_sequences + 1 < max_ids
        self.holders = range(num_sequences + 1, max_ids if has_holders else 0)
        parameters = _parameters(context_length, num_sequences + has_holders, num_threads, settings)
        backend.last_error("")
        with zeroing.on_demand() as lazy_bytes:
            self._handle = self._library.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            reason = backend.last_error("not enough memory?")
            raise ModelFailed(f"cannot make a context of {context_length} tokens: {reason}")
        threadpool.attach(self._handle, num_threads)
        self._memory = self._library.llama_get_memory(self._handle)
        self._decode = self._library.llama_decode
        self._num_native_cells = int(self._library.llama_n_ctx(self._handle))
        cell_bytes = sum(lazy_bytes) // self._num_native_cells if self.can_grow(model) else 0
        self._growth = Growth(self._num_native_cells, cell_bytes)
        if fit_memory:
            self._growth.fit_memory()
        self.context_length = self._growth.limit
        self._parameters = parameters
        self._adapter_handles = adapters
        self._adapters: AdapterSet = ()
        self.max_prompt_rows = max(1, min(BATCH_TOKENS, _PROMPT_LOGITS_BYTES // (4 * model.vocabulary_size)))
        self.batch = Batch(BATCH_TOKENS, num_sequences)

    @staticmethod
    def can_grow(model: Model) -> bool:
        """Whether cells take memory only when they are used: those of other devices have it from the start."""
        return zeroing.IS_LAZY and set(model.layers) == {"CPU"}

    @property
    def handle(self) -> int:
        return int(self._handle)

    @property
    def num_cells(self) -> int:
        """Cells that may be used at the moment."""
        return self._growth.num_cells

    def grow(self, num_cells: int, num_used: int) -> bool:
        """Whether `num_cells` may be used from now on; not so beyond `context_length`, or without memory for them."""
        return self._growth.grow(num_cells, num_used)

    def shrink(self) -> None:
        """Gives memory back. No cell may be in use."""
        if self._growth.has_grown:
            self._library.llama_memory_clear(self._memory, True)
            self._growth.shrink()

    @property
    def traits(self) -> dict[str, int | float | bool]:
        """What a state depends on beside the model and the library: that of two contexts that agree in all of it fits
        the other. The length counts too: by it llama.cpp chooses the rotation factors of some models (LongRoPE)."""
        found = {name: getattr(self._parameters, name) for name, *_ in self._parameters._fields_}
        numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
        return {name: value for name, value in numbers.items() if name not in _INDIFFERENT} | {
            "n_ctx": self._num_native_cells
        }

    def set_adapters(self, adapters: AdapterSet) -> None:
        """What is decoded from now on is computed with these adapters. llama.cpp plans its memory anew whenever they
        change, which takes some milliseconds of the next decode."""
        if adapters == self._adapters:
            return
        handles = (c.c_void_p * len(adapters))(*(self._adapter_handles[number] for number, _ in adapters))
        scales = (c.c_float * len(adapters))(*(scale for _, scale in adapters))
        self._library.llama_set_adapters_lora(self._handle, handles, len(adapters), scales)
        self._adapters = adapters

    def decode(self) -> None:
        """Runs the batch. Raises `KVCacheFull` (recoverable) or `DecodeFailed`."""
        native = self.batch.native
        native.n_tokens = self.batch.size
        code = self._decode(self._handle, native)
        if code == 1:
            raise KVCacheFull
        if code != 0:
            raise DecodeFailed(f"llama_decode returned {code}: {backend.last_error('no reason given')}")

    def clear(self) -> None:
        """Frees every cell of every sequence."""
        self._library.llama_memory_clear(self._memory, False)

    def forget(self, sequence: int, start: int = 0, end: int = -1) -> None:
        """Takes the cells from position `start` to before `end` (-1: all) away from a sequence; they are free when no
        other has them."""
        self._library.llama_memory_seq_rm(self._memory, sequence, start, end)

    def copy(self, source: int, target: int, end: int, start: int = 0) -> None:
        """Lets `target` have those of the cells of `source` as well that are from `start` to before `end`."""
        self._library.llama_memory_seq_cp(self._memory, source, target, start, end)

    def first_position(self, sequence: int) -> int:
        """Of what a sequence has in all layers; -1 when that is nothing."""
        return int(self._library.llama_memory_seq_pos_min(self._memory, sequence))

    def last_position(self, sequence: int) -> int:
        return int(self._library.llama_memory_seq_pos_max(self._memory, sequence))

    def state_bytes(self, sequence: int) -> int:
        """The size of a sequence's state."""
        with self._saveable(sequence) as id:
            return int(self._library.llama_state_seq_get_size(self._handle, id))

    def save_state(self, sequence: int) -> bytes:
        """A sequence's state, empty when llama.cpp cannot write it. 1 to 2.5 ms for 1,000 tokens of a small model."""
        with self._saveable(sequence) as id:
            size = self._library.llama_state_seq_get_size(self._handle, id)
            state = _new_bytes(None, size)
            written = self._library.llama_state_seq_get_data(self._handle, state, size, id)
            return state if written == size else b""

    def load_state(self, sequence: int, state: bytes) -> bool:
        """Gives a sequence the cells of a saved state instead of those it has; False when it cannot be read."""
        return bool(self._library.llama_state_seq_set_data(self._handle, state, len(state), sequence))

    @contextmanager
    def _saveable(self, sequence: int) -> Iterator[int]:
        """An id below `n_seq_max` with the cells of `sequence`."""
        if sequence not in self.holders:
            yield sequence
            return
        self.copy(sequence, self._scratch, -1)
        yield self._scratch
        self.forget(self._scratch)

    def set_num_threads(self, count: int) -> None:
        """Legal between decodes."""
        self._library.llama_set_n_threads(self._handle, count, count)


def _parameters(context_length: int, num_ids: int, num_threads: int, settings: "EngineSettings | None") -> Any:
    """llama.h, struct llama_context_params."""
    parameters = llama().llama_context_default_params()
    parameters.n_ctx = context_length
    parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
    parameters.n_seq_max = num_ids
    parameters.n_threads = parameters.n_threads_batch = num_threads
    parameters.kv_unified = True
    # All layers get as many cells, so that those that see a window have room for what is kept as well.
    parameters.swa_full = True
    parameters.no_perf = True
    if settings is not None:
        from shimmy.worker.llama.tuning import tune_context

        tune_context(parameters, settings)
    return parameters


# Bytes that C fills: a buffer of ctypes would have to be copied once more.
_new_bytes = c.pythonapi.PyBytes_FromStringAndSize
_new_bytes.restype = c.py_object
_new_bytes.argtypes = (c.c_char_p, c.c_ssize_t)
