"""Reads log probabilities off a row of logits, before any sampler changes them.

llama.cpp has a softmax and a partial sort, as samplers; a sampler of our own at the end of their chain sees the result.
"""

import ctypes as c
import math
from collections.abc import Callable
from struct import Struct

from shimmy.core.events import Alternative, TokenLogprob
from shimmy.worker.llama import abi
from shimmy.worker.llama.library import llama

MAX_ALTERNATIVES = 20
# JSON has no -inf; this is what OpenAI's API writes for it.
_LOWEST = -9999.0
_ENTRY = Struct("=iff")


class Probe:
    """For the step thread; one for all sequences of a model. It costs as much as drawing from all tokens."""

    def __init__(self, piece: Callable[[int], bytes | None], spelling: Callable[[int], bytes]) -> None:
        """`piece` gives what a token adds to a text, `spelling` how it is written where it is only named."""
        self._library = llama()
        self._piece = piece
        self._spelling = spelling
        self._seen: list[tuple[int, float, float]] = []
        # llama.cpp keeps the addresses only.
        self._callback = abi.llama_sampler_i_apply(self._look)
        self._interface = abi.llama_sampler_i(apply=c.cast(self._callback, c.c_void_p))
        self._chain = self._library.llama_sampler_chain_init(self._library.llama_sampler_chain_default_params())
        for link in (
            self._library.llama_sampler_init_dist(0),
            self._library.llama_sampler_init_top_k(MAX_ALTERNATIVES),
            self._library.llama_sampler_init(c.addressof(self._interface), None),
        ):
            self._library.llama_sampler_chain_add(self._chain, link)

    def read(self, context: int, row: int) -> "Reading":
        """What can be said of a row before one of its tokens is chosen. Its logits may change afterwards."""
        self._library.llama_sampler_sample(self._chain, context, row)
        _, logit, probability = self._seen[0]
        normaliser = logit - math.log(probability)
        top = [(token, logit - normaliser) for token, logit, _ in self._seen]
        logits = int(self._library.llama_get_logits_ith(context, row))
        return Reading(top, normaliser, logits)

    def record(self, reading: "Reading", token: int, num_alternatives: int) -> TokenLogprob:
        """What is told of a token that was chosen, whose logit has not changed since."""
        logit = c.c_float.from_address(reading.logits + 4 * token).value
        top = [Alternative(self._named(each), _bounded(logprob)) for each, logprob in reading.top[:num_alternatives]]
        return TokenLogprob(self._piece(token) or b"", _bounded(logit - reading.normaliser), top)

    def _named(self, token: int) -> bytes:
        return self._piece(token) or self._spelling(token)

    def _look(self, _sampler: int, candidates: int) -> None:
        array = abi.llama_token_data_array.from_address(candidates)
        array.selected = 0
        data = c.string_at(array.data, _ENTRY.size * min(array.size, MAX_ALTERNATIVES))
        self._seen = list(_ENTRY.iter_unpack(data))


class Reading:
    """The likeliest tokens of a row with their log probabilities, and what a logit less `normaliser` is one."""

    __slots__ = ("logits", "normaliser", "top")

    def __init__(self, top: list[tuple[int, float]], normaliser: float, logits: int) -> None:
        self.top = top
        self.normaliser = normaliser
        self.logits = logits


def _bounded(logprob: float) -> float:
    return logprob if logprob > _LOWEST else _LOWEST
