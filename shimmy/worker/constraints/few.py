"""The tokens of a mask that allows few. Knows masks, nothing of logits.

To search a mask takes longer than to draw from what is found, and the same few come again and again: what begins a
number, what may follow a string.
"""

from collections.abc import Callable
from itertools import accumulate, count
from operator import add

from shimmy.worker.constraints.cache import Cache
from shimmy.worker.constraints.matcher import ALLOWED

CACHE_BYTES = 4 << 20
_BYTES_EACH = 40  # of a token in a tuple
# Searching takes 0.2 us for each, and splitting as long as for three hundred, however many there are.
_MAX_SEARCHED = 320


class Few:
    """For one thread. No more than `limit` tokens are few."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: Cache[tuple[int, ...] | None] = Cache(CACHE_BYTES)

    def of(self, bits: bytes, vocabulary_size: int, mask: Callable[[], bytes]) -> tuple[int, ...] | None:
        """What may come of a vocabulary, by its bits and, for the first time, its mask (matcher.py); None for much."""

        def found() -> tuple[int, ...] | None:
            if len(bits.translate(None, b"\0")) > self._limit:
                return None
            return allowed_by(mask()[:vocabulary_size], self._limit)

        def size(tokens: tuple[int, ...] | None) -> int:
            return len(bits) + _BYTES_EACH * len(tokens or ())

        return self._kept.get((bits, vocabulary_size), found, size)


def allowed_by(mask: bytes, limit: int) -> tuple[int, ...] | None:
    """The tokens that may come; None if those are more than `limit`."""
    tokens = []
    at = mask.find(ALLOWED)
    while at >= 0:
        tokens.append(at)
        if len(tokens) > _MAX_SEARCHED:
            return _split(mask, limit)
        at = mask.find(ALLOWED, at + 1)
    return tuple(tokens) if len(tokens) <= limit else None


def _split(mask: bytes, limit: int) -> tuple[int, ...] | None:
    gaps = mask.split(ALLOWED, limit + 1)
    if len(gaps) > limit + 1:
        return None
    return tuple(map(add, accumulate(map(len, gaps[:-1])), count()))
