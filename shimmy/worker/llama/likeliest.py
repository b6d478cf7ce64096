"""The likeliest tokens of a batch row, found by llama.cpp: no penalties, no draw.

Its samplers sort in part, and have a softmax; a link of our own in a chain of them sees the result.
"""

import ctypes as c
import math
from struct import Struct

from shimmy.worker.llama import abi
from shimmy.worker.llama.libllama import llama

# llama.h, llama_token_data: id, logit, p
_ENTRY = Struct("=iff")
ENTRY_BYTES = _ENTRY.size


class Copying:
    """A link for one chain. It changes nothing, and has in `entries` the first so many candidates that came to it."""

    def __init__(self, count: int) -> None:
        self._most_bytes = ENTRY_BYTES * count
        self.entries = b""
        # llama.cpp keeps the addresses only.
        self._callback = abi.llama_sampler_i_apply(self._copy)
        self._interface = abi.llama_sampler_i(apply=c.cast(self._callback, c.c_void_p))
        self.link = int(llama().llama_sampler_init(c.addressof(self._interface), None))

    def _copy(self, _link: int, candidates: int) -> None:
        array = abi.llama_token_data_array.from_address(candidates)
        # Where no draw follows, llama.cpp wants one that is drawn all the same.
        array.selected = 0
        self.entries = c.string_at(array.data, min(ENTRY_BYTES * array.size, self._most_bytes))


class Likeliest:
    """So many of each row. For the step thread; one may serve all sequences of a context."""

    def __init__(self, count: int, *, softmax: bool = False) -> None:
        """`softmax` gives each token's probability among all, which costs as much as drawing from all."""
        self._library = llama()
        self._copying = Copying(count)
        self._chain = self._library.llama_sampler_chain_init(self._library.llama_sampler_chain_default_params())
        links = [self._library.llama_sampler_init_dist(0)] if softmax else []
        links.append(self._library.llama_sampler_init_top_k(count))
        links.append(self._copying.link)
        for link in links:
            self._library.llama_sampler_chain_add(self._chain, link)

    def of(self, context: int, row: int) -> list[tuple[int, float, float]]:
        """Token, logit and, with `softmax`, probability of each, the likeliest first."""
        return list(_ENTRY.iter_unpack(self.entries(context, row)))

    def entries(self, context: int, row: int) -> bytes:
        """The same, `ENTRY_BYTES` each."""
        self._library.llama_sampler_sample(self._chain, context, row)
        return self._copying.entries

    def pick(self, context: int, row: int) -> tuple[int, float]:
        """The likeliest, and its share of what all of these have of the probability."""
        (token, best, _), *others = self.of(context, row)
        return token, 1 / (1 + sum(math.exp(logit - best) for _, logit, _ in others))
