"""The likeliest tokens of a batch row, found by llama.cpp: no penalties, no draw.

Its samplers sort in part, and have a softmax; a sampler of our own at the end of their chain sees the result.
"""

import ctypes as c
import math
from struct import Struct

from shimmy.worker.llama import abi
from shimmy.worker.llama.libllama import llama

# llama.h, llama_token_data: id, logit, p
_ENTRY = Struct("=iff")


class Likeliest:
    """So many of each row. For the step thread; one may serve all sequences of a context."""

    def __init__(self, count: int, *, softmax: bool = False) -> None:
        """`softmax` gives each token's probability among all, which costs as much as drawing from all."""
        self._library = llama()
        self._count = count
        self._seen: list[tuple[int, float, float]] = []
        # llama.cpp keeps the addresses only.
        self._callback = abi.llama_sampler_i_apply(self._look)
        self._interface = abi.llama_sampler_i(apply=c.cast(self._callback, c.c_void_p))
        self._chain = self._library.llama_sampler_chain_init(self._library.llama_sampler_chain_default_params())
        links = [self._library.llama_sampler_init_dist(0)] if softmax else []
        links.append(self._library.llama_sampler_init_top_k(count))
        links.append(self._library.llama_sampler_init(c.addressof(self._interface), None))
        for link in links:
            self._library.llama_sampler_chain_add(self._chain, link)

    def of(self, context: int, row: int) -> list[tuple[int, float, float]]:
        """Token, logit and, with `softmax`, probability of each, the likeliest first."""
        self._library.llama_sampler_sample(self._chain, context, row)
        return self._seen

    def pick(self, context: int, row: int) -> tuple[int, float]:
        """The likeliest, and its share of what all of these have of the probability."""
        (token, best, _), *others = self.of(context, row)
        return token, 1 / (1 + sum(math.exp(logit - best) for _, logit, _ in others))

    def _look(self, _sampler: int, candidates: int) -> None:
        array = abi.llama_token_data_array.from_address(candidates)
        array.selected = 0
        data = c.string_at(array.data, _ENTRY.size * min(array.size, self._count))
        self._seen = list(_ENTRY.iter_unpack(data))
