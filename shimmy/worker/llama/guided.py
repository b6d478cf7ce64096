"""The last link of a sampler chain whose tokens are constrained: it lets what may not come next not be drawn.

What the chain has drawn is checked alone, and mostly stands: the model knows JSON as well. Otherwise, where much may
come, it is drawn anew from what the chain has left and may come. Else, and when none of that may, the whole vocabulary
is asked, and the chain draws from what may. A link of its own in the chain sees what was drawn before the
other links are told of it, so that penalties count nothing that was refused.
"""

import ctypes as c
import math
from array import array
from functools import cache
from itertools import accumulate, count
from operator import add
from typing import Protocol

from shimmy.worker.constraints.matcher import ALLOWED
from shimmy.worker.llama import abi
from shimmy.worker.llama.chain import MAX_LEFT
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.likeliest import Likeliest

# Up to so many tokens are drawn from, at 0.2 us each; of more that may come, those that are among so many likeliest.
MAX_GATHERED = 1024
NUM_LIKELIEST = 128
_FEW = 320
_ENTRY_BYTES = c.sizeof(abi.llama_token_data)
_WORDS = _ENTRY_BYTES // 4  # id, logit, probability


class Guide(Protocol):
    """What is asked of a constraint (worker/constraints/matcher.py is the real one)."""

    def take(self, token: int) -> bool: ...
    def allows(self, token: int) -> bool: ...
    def mask(self) -> bytes: ...
    def bits(self) -> bytes: ...
    def is_open(self) -> bool: ...
    def failure(self) -> Exception: ...


class GuidedDraw:
    """Draws one sequence's tokens through its chain, which gets a link more and must stay where it is."""

    def __init__(self, chain: int, guide: Guide, vocabulary_size: int) -> None:
        self._library = llama()
        self._guide = guide
        self._chain = chain
        self._vocabulary_size = vocabulary_size
        self._draw = int(self._library.llama_sampler_chain_get(chain, self._library.llama_sampler_chain_n(chain) - 1))
        self._callback = abi.llama_sampler_i_apply(self._check)
        self._interface = abi.llama_sampler_i(apply=c.cast(self._callback, c.c_void_p))
        link = self._library.llama_sampler_init(c.addressof(self._interface), None)
        self._library.llama_sampler_chain_add(chain, link)
        self._row = (0, 0)
        self._is_drawing_again = False
        self._error: Exception | None = None
        self.num_refused = 0

    def sample(self, context: int, row: int) -> int:
        """The next token. Raises what the guide raises."""
        self._row = context, row
        self._error = None
        token = int(self._library.llama_sampler_sample(self._chain, context, row))
        if self._error is not None:
            raise self._error
        return token

    def _check(self, _link: int, candidates: int) -> None:
        """llama.cpp calls this, which must not raise."""
        if self._is_drawing_again:
            return
        left = abi.llama_token_data_array.from_address(candidates)
        try:
            drawn = c.c_int32.from_address(left.data + _ENTRY_BYTES * left.selected).value
            if not self._guide.take(drawn):
                self.num_refused += 1
                drawn = self._draw_again(left)
                c.c_int32.from_address(left.data).value = drawn
                left.selected = 0
        except Exception as error:
            self._error = error

    def _draw_again(self, left: abi.llama_token_data_array) -> int:
        token = None
        # Of a few signs none of those is one, mostly.
        if left.size <= MAX_LEFT and self._guide.is_open():
            token = self._from_left(left)
        if token is None:
            token = self._from_all()
        if not self._guide.take(token):
            raise self._guide.failure()
        return token

    def _from_left(self, left: abi.llama_token_data_array) -> int | None:
        """Of what all other links have left."""
        words = memoryview((c.c_int32 * (_WORDS * left.size)).from_address(left.data)).cast("B").cast("i")
        bits = self._guide.bits()
        entries = array("i")
        for at in range(0, len(words), _WORDS):
            token = words[at]
            if bits[token >> 3] >> (token & 7) & 1:
                entries.extend(words[at : at + _WORDS])
        return self._drawn(self._draw, entries) if entries else None

    def _from_all(self) -> int:
        tokens = self._allowed()
        row = memoryview((c.c_float * self._vocabulary_size).from_address(self._logits())).cast("B").cast("f")
        logits = array("f", map(row.__getitem__, tokens))
        if max(logits) == -math.inf:
            # All that the constraint allows is banned, and the constraint comes first.
            return tokens[0]
        entries = array("i", bytes(_ENTRY_BYTES * len(tokens)))
        words = memoryview(entries)
        words[::_WORDS] = array("i", tokens)
        words.cast("B").cast("f")[1::_WORDS] = memoryview(logits)
        return self._drawn(self._chain, entries)

    def _allowed(self) -> list[int]:
        """What may come; where that is much, the likeliest of it."""
        tokens = self._allowed_of_likeliest() if self._guide.is_open() else None
        if not tokens:
            mask = self._guide.mask()
            tokens = _set_in(mask, MAX_GATHERED) or self._allowed_of_likeliest() or _set_in(mask, len(mask))
            if tokens[-1] >= self._vocabulary_size:
                # The end of a model that has no token for it (constraints/vocabulary.py).
                tokens.pop()
        if not tokens:
            raise self._guide.failure()
        return tokens

    def _allowed_of_likeliest(self) -> list[int]:
        bits = self._guide.bits()
        return [token for token in self._likeliest() if bits[token >> 3] >> (token & 7) & 1]

    def _logits(self) -> int:
        return int(self._library.llama_get_logits_ith(*self._row))

    def _likeliest(self) -> list[int]:
        return [token for token, _, _ in _likeliest().of(*self._row)]

    def _drawn(self, sampler: int, entries: "array[int]") -> int:
        """What a sampler draws of some (id, logit, probability)."""
        address, _ = entries.buffer_info()
        candidates = abi.llama_token_data_array(address, len(entries) // _WORDS, -1, False)
        self._is_drawing_again = True
        try:
            self._library.llama_sampler_apply(sampler, c.addressof(candidates))
        finally:
            self._is_drawing_again = False
        return c.c_int32.from_address(candidates.data + _ENTRY_BYTES * candidates.selected).value


def _set_in(mask: bytes, limit: int) -> list[int]:
    """The tokens that may come; none when there are more than `limit`."""
    # Searching takes 0.2 us for each, and splitting as long as for three hundred, however many there are.
    tokens = []
    at = mask.find(ALLOWED)
    while at >= 0:
        tokens.append(at)
        if len(tokens) > _FEW:
            return _split(mask, limit)
        at = mask.find(ALLOWED, at + 1)
    return tokens if len(tokens) <= limit else []


def _split(mask: bytes, limit: int) -> list[int]:
    """The same, for many."""
    gaps = mask.split(ALLOWED, limit + 1)
    if len(gaps) > limit + 1:
        return []
    return list(map(add, accumulate(map(len, gaps[:-1])), count()))


@cache
def _likeliest() -> Likeliest:
    return Likeliest(NUM_LIKELIEST)
