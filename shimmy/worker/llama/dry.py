"""The DRY sampler. llama.cpp looks its sequence breakers up in the whole vocabulary: 7 ms for one of a single character
and 49,000 tokens, 400 ms for a sentence. So it is made once for all that ask for the same, and cloned."""

import ctypes as c
from functools import lru_cache

from shimmy.core.request import Sampling
from shimmy.worker.llama.libllama import llama

_NUM_KEPT = 4


class Dry:
    """A sampler that is only ever cloned. It goes with the last reference to it."""

    def __init__(self, vocab: int, multiplier: float, base: float, length: int, window: int, *breakers: bytes) -> None:
        self.window = window
        self._library = llama()
        strings = (c.c_char_p * len(breakers))(*breakers)
        self._native = self._library.llama_sampler_init_dry(
            vocab, multiplier, base, length, window, strings, len(breakers)
        )

    def clone(self) -> int:
        """A sampler with a memory of its own, for a chain to have."""
        return int(self._library.llama_sampler_clone(self._native))

    def __del__(self) -> None:
        if native := getattr(self, "_native", None):
            self._library.llama_sampler_free(native)


class Dries:
    """The last few that were asked for. For one thread alone."""

    def __init__(self, vocab: int, context_length: int) -> None:
        self._context_length = context_length
        self._made = lru_cache(_NUM_KEPT)(lambda *fields: Dry(vocab, *fields))

    def of(self, sampling: Sampling) -> Dry | None:
        """None where it would do nothing."""
        window = window_of(sampling.dry_penalty_last_n, self._context_length)
        if not sampling.dry_multiplier or not window or "dry" not in sampling.samplers:
            return None
        breakers = [breaker.encode() for breaker in sampling.dry_sequence_breakers]
        length = min(sampling.dry_allowed_length, self._context_length)
        return self._made(sampling.dry_multiplier, sampling.dry_base, length, window, *breakers)


def window_of(length: int, context_length: int) -> int:
    """How many tokens a sampler looks back. llama.cpp allocates as much as it is told: never more than there can be."""
    return context_length if length < 0 else min(length, context_length)
