"""The last link of a sampler chain whose tokens are constrained: it lets what may not come next not be drawn.

What the chain has drawn is checked alone, and mostly stands: the model knows JSON as well. Otherwise, where few tokens
may come, the chain draws from exactly those. Where many may, it is drawn from the likeliest, as far as they may come:
those that the chain has kept before it ruled any out (chain.py), or what it has left. When none of those may, more of
the vocabulary is asked. A link of its own in the chain sees what was drawn before the other links are told of it, so
that penalties count nothing that was refused.
"""

import ctypes as c
import math
from array import array
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import compress
from typing import Protocol

from shimmy.worker.constraints.few import Few, allowed_by
from shimmy.worker.llama import abi
from shimmy.worker.llama.chain import MAX_SORTED, NUM_KEPT, Chain
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.likeliest import ENTRY_BYTES, Likeliest

# So many are looked at one by one, at 0.1 to 0.2 us each.
MAX_FEW = 512
_WORDS = ENTRY_BYTES // 4  # id, logit, probability


class Guide(Protocol):
    """What is asked of a constraint (worker/constraints/matcher.py is the real one)."""

    def take(self, token: int) -> bool: ...
    def mask(self) -> bytes: ...
    def bits(self) -> bytes: ...
    def failure(self) -> Exception: ...


class GuidedDraw:
    """Draws one sequence's tokens through its chain, which gets a link more and must stay where it is."""

    def __init__(self, chain: Chain, guide: Guide, vocabulary_size: int) -> None:
        self._library = llama()
        self._guide = guide
        self._chain = chain.native
        self._vocabulary_size = vocabulary_size
        self._kept = chain.kept
        # What draws from those that were kept, or else from what is left.
        self._end = int(self._library.llama_sampler_chain_get(self._chain, self._num_links() - 1))
        self._callback = abi.llama_sampler_i_apply(self._check)
        self._interface = abi.llama_sampler_i(apply=c.cast(self._callback, c.c_void_p))
        link = self._library.llama_sampler_init(c.addressof(self._interface), None)
        self._library.llama_sampler_chain_add(self._chain, link)
        self._row = (0, 0)
        self._is_drawing_again = False
        self._error: Exception | None = None

    def sample(self, context: int, row: int) -> int:
        """The next token. Raises what the guide raises."""
        self._row = context, row
        self._error = None
        token = int(self._library.llama_sampler_sample(self._chain, context, row))
        if self._error is not None:
            raise self._error
        return token

    def _num_links(self) -> int:
        return int(self._library.llama_sampler_chain_n(self._chain))

    def _check(self, _link: int, candidates: int) -> None:
        """llama.cpp calls this, which must not raise."""
        if self._is_drawing_again:
            return
        left = abi.llama_token_data_array.from_address(candidates)
        try:
            drawn = c.c_int32.from_address(left.data + ENTRY_BYTES * left.selected).value
            if not self._guide.take(drawn):
                drawn = self._draw_again(left)
                c.c_int32.from_address(left.data).value = drawn
                left.selected = 0
        except Exception as error:
            self._error = error

    def _draw_again(self, left: abi.llama_token_data_array) -> int:
        bits = self._guide.bits()
        few = _few().of(bits, self._vocabulary_size, self._guide.mask)
        token = self._of_many(bits, left) if few is None else self._from(few)
        if not self._guide.take(token):
            raise self._guide.failure()
        return token

    def _of_many(self, bits: bytes, left: abi.llama_token_data_array) -> int:
        for sampler, entries in self._candidates(left):
            token = self._allowed(sampler, entries, bits)
            if token is not None:
                return token
        mask = self._guide.mask()[: self._vocabulary_size]
        return self._from(allowed_by(mask, len(mask)) or ())

    def _candidates(self, left: abi.llama_token_data_array) -> Iterator[tuple[int, bytes]]:
        """What to look among, `ENTRY_BYTES` each, and what draws from it: first what costs least."""
        if self._kept is not None:
            yield self._end, self._kept.entries
        else:
            if left.size <= MAX_FEW:
                yield self._end, c.string_at(left.data, ENTRY_BYTES * left.size)
            yield self._chain, self._likeliest(NUM_KEPT)
        yield self._chain, self._likeliest(MAX_SORTED)

    def _allowed(self, sampler: int, entries: bytes, bits: bytes) -> int | None:
        """What a sampler draws of those candidates that may come, unless there are none."""
        words = memoryview(entries).cast("i")
        tokens = words[::_WORDS].tolist()
        may_come = [bits[token >> 3] >> (token & 7) & 1 for token in tokens]
        logits = words.cast("B").cast("f")[1::_WORDS].tolist()
        return self._drawn(sampler, list(compress(tokens, may_come)), list(compress(logits, may_come)))

    def _from(self, tokens: tuple[int, ...]) -> int:
        """What the chain draws of these."""
        if not tokens:
            raise self._guide.failure()
        row = (c.c_float * self._vocabulary_size).from_address(self._logits())
        token = self._drawn(self._chain, tokens, [row[token] for token in tokens])
        # All that the constraint allows is banned, and the constraint comes first.
        return tokens[0] if token is None else token

    def _logits(self) -> int:
        return int(self._library.llama_get_logits_ith(*self._row))

    def _likeliest(self, count: int) -> bytes:
        return _likeliest(count).entries(*self._row)

    def _drawn(self, sampler: int, tokens: Sequence[int], logits: Sequence[float]) -> int | None:
        """None if none is possible."""
        if not any(map(math.isfinite, logits)):
            return None
        entries = array("i", bytes(ENTRY_BYTES * len(tokens)))
        words = memoryview(entries)
        words[::_WORDS] = array("i", tokens)
        words.cast("B").cast("f")[1::_WORDS] = array("f", logits)
        address, _ = entries.buffer_info()
        candidates = abi.llama_token_data_array(address, len(tokens), -1, False)
        self._is_drawing_again = True
        try:
            self._library.llama_sampler_apply(sampler, c.addressof(candidates))
        finally:
            self._is_drawing_again = False
        return c.c_int32.from_address(candidates.data + ENTRY_BYTES * candidates.selected).value


@cache
def _few() -> Few:
    return Few(MAX_FEW)


@cache
def _likeliest(count: int) -> Likeliest:
    return Likeliest(count)
