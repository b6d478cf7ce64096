"""The last link of a sampler chain whose tokens are constrained: it lets what may not come next not be drawn.

What the chain has drawn is checked alone, and mostly stands: the model knows JSON as well. Otherwise the others that
the chain has left are checked, likeliest first, and drawn from anew. Only when none of those may come, the whole
vocabulary is asked, and the chain draws from what may. A link of its own in the chain sees what was drawn before the
other links are told of it, so that penalties count nothing that was refused.
"""

import ctypes as c
import math
from array import array
from functools import cache
from typing import Protocol

from shimmy.worker.constraints.matcher import ALLOWED
from shimmy.worker.llama import abi
from shimmy.worker.llama.library import llama

# More than these are not checked one by one: asking for all is as fast.
MAX_LEFT = 64
# Up to so many logits are gathered; of more the likeliest are, because copying takes 0.1 us each.
MAX_GATHERED = 1024
_ENTRY_BYTES = c.sizeof(abi.llama_token_data)
_WORDS = _ENTRY_BYTES // 4  # id, logit, probability


class Guide(Protocol):
    """What is asked of a constraint (worker/constraints/matcher.py is the real one)."""

    def take(self, token: int) -> bool: ...
    def allows(self, token: int) -> bool: ...
    def mask(self) -> bytes: ...
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
        token = self._from_left(left) if left.size <= MAX_LEFT else None
        if token is None:
            token = self._from_all()
        if not self._guide.take(token):
            raise self._guide.failure()
        return token

    def _from_left(self, left: abi.llama_token_data_array) -> int | None:
        """Of what all other links have left."""
        words = memoryview((c.c_int32 * (_WORDS * left.size)).from_address(left.data)).cast("B").cast("i")
        kept = [at for at in range(left.size) if self._guide.allows(words[_WORDS * at])]
        if not kept:
            return None
        entries = array("i")
        for at in kept:
            entries.extend(words[_WORDS * at : _WORDS * at + _WORDS])
        return self._drawn(self._draw, entries)

    def _from_all(self) -> int:
        mask = self._guide.mask()
        logits = int(self._library.llama_get_logits_ith(*self._row))
        row = memoryview((c.c_float * self._vocabulary_size).from_address(logits)).cast("B").cast("f")
        tokens = _set_in(mask, MAX_GATHERED)
        if tokens is None:
            tokens = [token for token in _likeliest().of(*self._row) if mask[token]] or _set_in(mask, len(mask)) or []
        possible = [token for token in tokens if row[token] > -math.inf]
        if not possible:
            # All that the constraint allows is banned, and the constraint comes first.
            return tokens[0]
        entries = array("i", bytes(_ENTRY_BYTES * len(possible)))
        words = memoryview(entries)
        words[::_WORDS] = array("i", possible)
        words.cast("B").cast("f")[1::_WORDS] = array("f", [row[token] for token in possible])
        return self._drawn(self._chain, entries)

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


def _set_in(mask: bytes, limit: int) -> list[int] | None:
    """The tokens that may come; None for more than `limit`."""
    if mask.count(ALLOWED) > limit:
        return None
    found, at = [], mask.find(ALLOWED)
    while at >= 0:
        found.append(at)
        at = mask.find(ALLOWED, at + 1)
    return found


class _Likeliest:
    """The tokens with the highest logits of a row, found in C. One for all sequences, on the step thread."""

    def __init__(self) -> None:
        self._library = llama()
        self._tokens: list[int] = []
        self._callback = abi.llama_sampler_i_apply(self._look)
        self._interface = abi.llama_sampler_i(apply=c.cast(self._callback, c.c_void_p))
        self._chain = self._library.llama_sampler_chain_init(self._library.llama_sampler_chain_default_params())
        for link in (
            self._library.llama_sampler_init_top_k(MAX_GATHERED),
            self._library.llama_sampler_init(c.addressof(self._interface), None),
        ):
            self._library.llama_sampler_chain_add(self._chain, link)

    def of(self, context: int, row: int) -> list[int]:
        self._library.llama_sampler_sample(self._chain, context, row)
        return self._tokens

    def _look(self, _link: int, candidates: int) -> None:
        found = abi.llama_token_data_array.from_address(candidates)
        found.selected = 0
        entries = memoryview(c.string_at(found.data, _ENTRY_BYTES * found.size)).cast("i")
        self._tokens = entries[::_WORDS].tolist()


_likeliest = cache(_Likeliest)
