"""Reads log probabilities off a row of logits, before any sampler changes them."""

import ctypes as c
import math
from collections.abc import Callable

from shimmy.core.events import Alternative, TokenLogprob
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.likeliest import Likeliest

MAX_ALTERNATIVES = 20
# JSON has no -inf; this is what OpenAI's API writes for it.
_LOWEST = -9999.0


class Probe:
    """For the step thread; one for all sequences of a model. It costs as much as drawing from all tokens."""

    def __init__(self, piece: Callable[[int], bytes | None], spelling: Callable[[int], bytes]) -> None:
        """`piece` gives what a token adds to a text, `spelling` how it is written where it is only named."""
        self._library = llama()
        self._piece = piece
        self._spelling = spelling
        self._likeliest = Likeliest(MAX_ALTERNATIVES, softmax=True)

    def read(self, context: int, row: int) -> "Reading":
        """What can be said of a row before one of its tokens is chosen. Its logits may change afterwards."""
        likeliest = self._likeliest.of(context, row)
        _, logit, probability = likeliest[0]
        normaliser = logit - math.log(probability)
        top = [(token, logit - normaliser) for token, logit, _ in likeliest]
        logits = int(self._library.llama_get_logits_ith(context, row))
        return Reading(top, normaliser, logits)

    def record(self, reading: "Reading", token: int, num_alternatives: int) -> TokenLogprob:
        """What is told of a token that was chosen, whose logit has not changed since."""
        logit = c.c_float.from_address(reading.logits + 4 * token).value
        top = [Alternative(self._named(each), _bounded(logprob)) for each, logprob in reading.top[:num_alternatives]]
        return TokenLogprob(self._piece(token) or b"", _bounded(logit - reading.normaliser), top)

    def _named(self, token: int) -> bytes:
        return self._piece(token) or self._spelling(token)


class Reading:
    """The likeliest tokens of a row with their log probabilities, and what a logit less `normaliser` is one."""

    __slots__ = ("logits", "normaliser", "top")

    def __init__(self, top: list[tuple[int, float]], normaliser: float, logits: int) -> None:
        self.top = top
        self.normaliser = normaliser
        self.logits = logits


def _bounded(logprob: float) -> float:
    return logprob if logprob > _LOWEST else _LOWEST
