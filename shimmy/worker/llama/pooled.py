"""A llama context that makes vectors of texts. Only the step thread may touch it.

What llama.cpp makes of a sequence it makes of what the last batch had of it. An encoder has to see a text whole, in one
batch; the others have a memory, and can go on with a text in the next batch.
"""

import ctypes as c

from shimmy.core.capabilities import POOLINGS
from shimmy.core.errors import ModelFailed
from shimmy.core.request import Pooling
from shimmy.worker.growth import Growth
from shimmy.worker.llama import backend, threadpool, zeroing
from shimmy.worker.llama.context import Batch, Context, DecodeFailed
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.model import Model

# More in one batch are not computed any faster, and an encoder compares every token of it with every other
# (`python -m bench.embeddings`).
BATCH_TOKENS = 512
# Texts in one batch. With a recurrent memory each has a state of its own.
_NUM_SEQUENCES = 128
_NUM_STATES = 8
_FLOAT_BYTES = 4


class PooledContext:
    """Takes texts of up to `max_tokens` tokens, in batches of `batch.capacity` rows and `num_sequences` texts at most.
    If `is_whole`, a text has to be in one batch."""

    def __init__(self, model: Model, pooling: Pooling, *, max_tokens: int, num_threads: int) -> None:
        """Raises `ModelFailed` when llama.cpp cannot make it."""
        self._library = llama()
        self._width = model.num_scores if pooling == "rank" else model.vector_width
        self.is_whole = model.is_encoder
        self.max_tokens = max_tokens
        self.num_sequences = _NUM_STATES if model.reuse.whole else _NUM_SEQUENCES
        capacity = max(BATCH_TOKENS, max_tokens) if self.is_whole else BATCH_TOKENS
        parameters = self._library.llama_context_default_params()
        # One text may be half done when the next batch has others beside it.
        parameters.n_ctx = capacity if self.is_whole else max_tokens + capacity
        parameters.n_batch = parameters.n_ubatch = capacity
        parameters.n_seq_max = self.num_sequences
        parameters.n_threads = parameters.n_threads_batch = num_threads
        parameters.pooling_type = POOLINGS.index(pooling)
        parameters.embeddings = True
        parameters.kv_unified = True
        parameters.swa_full = True
        parameters.no_perf = True
        with zeroing.on_demand() as lazy_bytes:
            self._handle = self._library.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise ModelFailed(f"cannot make a context for vectors: {backend.last_error('not enough memory?')}")
        threadpool.attach(self._handle, num_threads)
        self._memory = self._library.llama_get_memory(self._handle)
        if self.is_whole == bool(self._memory):
            raise ModelFailed("llama.cpp and the model's file do not agree about whether it is an encoder")
        num_cells = int(self._library.llama_n_ctx(self._handle))
        can_grow = bool(self._memory) and Context.can_grow(model)
        self._growth = Growth(num_cells, sum(lazy_bytes) // num_cells if can_grow else 0)
        self._most_rows = 0
        self.batch = Batch(capacity, self.num_sequences)

    def has_room(self, num_cells: int, num_used: int) -> bool:
        """Whether there is memory for so many tokens, of which `num_used` are there already."""
        return self._growth.grow(num_cells, num_used)

    def decode(self) -> None:
        """Runs the batch. Raises `DecodeFailed`."""
        native = self.batch.native
        native.n_tokens = self.batch.size
        if self.batch.size > self._most_rows:
            # llama.cpp makes room for the logits of all rows then, which an encoder has none of, and clears it: 8 GB
            # for 8,192 tokens of a vocabulary of 250,000.
            with zeroing.on_demand():
                code = self._library.llama_decode(self._handle, native)
            self._most_rows = self.batch.size
        else:
            code = self._library.llama_decode(self._handle, native)
        if code != 0:
            raise DecodeFailed(f"llama_decode returned {code}: {backend.last_error('no reason given')}")

    def vector(self, sequence: int) -> bytes:
        """What the last batch made of a sequence; with pooling only."""
        return self._floats(self._library.llama_get_embeddings_seq(self._handle, sequence))

    def rows(self, start: int, count: int) -> bytes:
        """The vectors of rows of the last batch; without pooling only."""
        get = self._library.llama_get_embeddings_ith
        return b"".join([self._floats(get(self._handle, row)) for row in range(start, start + count)])

    def forget(self, sequence: int) -> None:
        if self._memory:
            self._library.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def rest(self) -> None:
        """Gives memory back. No sequence may be there."""
        if self._growth.has_grown:
            self._library.llama_memory_clear(self._memory, True)
            self._growth.shrink()

    def _floats(self, address: int | None) -> bytes:
        if not address:
            raise DecodeFailed("llama.cpp made no vector")
        return c.string_at(address, _FLOAT_BYTES * self._width)
