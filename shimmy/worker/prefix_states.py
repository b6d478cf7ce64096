"""States of sequences that left the KV cache: the tier in RAM, and what any tier below it looks like.

Knows token ids and bytes. A state is what llama.cpp made of one sequence (context.py `save_state`); which of its
positions can be used again is `Reuse`'s to say.
"""

import array
import math
import time
from collections import OrderedDict
from collections.abc import Generator
from typing import NamedTuple, Protocol

from shimmy.worker.prefix_tree import common_length

Tokens = array.array  # of "i"


class Reuse(NamedTuple):
    """What a model's memory allows. `whole` where it is a state that only fits the very end of what was computed
    (recurrent layers); `window` tokens that some layers look back at most, 0 where all see everything."""

    whole: bool = False
    window: int = 0

    def reaches(self, length: int, first: int) -> bool:
        """Whether cells from position `first` on are enough to go on after `length` tokens."""
        # The token at `length` sees `window` positions, itself among them (llama-hparams.h, is_masked_swa).
        return 0 <= first <= (max(0, length + 1 - self.window) if self.window else 0)

    def fits(self, length: int, stored: int) -> bool:
        """Whether a saved state of `stored` tokens can be used to go on after `length` of them."""
        if self.whole:
            return length == stored
        # llama.cpp leaves out of a state what its last token does not see.
        return self.reaches(length, max(0, stored - self.window) if self.window else 0)


class Hit(Protocol):
    """A state that was there when it was looked for: of `stored` tokens, to be used for the first `length`."""

    @property
    def length(self) -> int: ...
    @property
    def stored(self) -> int: ...


class StateTier(Protocol):
    """A place for states, keyed by the tokens that they are of. What differs in `namespace` never meets."""

    def match(self, tokens: "Tokens[int]", namespace: str) -> Hit | None:
        """The hit with the greatest length, which is less than that of `tokens`."""

    def fetch(self, hit: Hit) -> bytes | None:
        """The state; None when it has gone since."""

    def wants(self, tokens: "Tokens[int]", namespace: str, num_bytes: int) -> bool:
        """Whether `offer` would take the state after `tokens`; asked before the state is made."""

    def offer(self, tokens: "Tokens[int]", namespace: str, state: bytes) -> None: ...


class LastingTier(StateTier, Protocol):
    """One that outlives the process, and the end of which nobody foresees: it gets states while they are in use."""

    def reading(self, hit: Hit) -> Generator[None, None, bytes | None]:
        """Returns what `fetch` does; it yields all the time, for whoever has other things to do."""

    def parting(self, tokens: "Tokens[int]", namespace: str) -> int:
        """How many of `tokens` any of its states begins with, as far as that is worth knowing."""


class Fetch:
    """A state that is being read, a little at a time."""

    def __init__(self, hit: Hit, reading: Generator[None, None, bytes | None]) -> None:
        self.hit = hit
        self._reading = reading
        self._is_over = False
        self._state: bytes | None = None

    def go_on(self, seconds: float) -> bool:
        """Whether it is over, after so long at most."""
        deadline = time.monotonic() + seconds
        while not self._is_over and time.monotonic() < deadline:
            try:
                next(self._reading)
            except StopIteration as end:
                self._is_over, self._state = True, end.value
        return self._is_over

    def whole(self) -> bytes | None:
        """Reads the rest."""
        self.go_on(math.inf)
        return self._state


class Kept(NamedTuple):
    """A state in RAM; as a hit, good for the first `length` tokens."""

    key: tuple[str, bytes]
    length: int
    stored: int


class RamTier:
    """At most `limit_bytes` of states, the least recently used dropped first."""

    def __init__(self, limit_bytes: int, reuse: Reuse) -> None:
        self._limit_bytes = limit_bytes
        self._reuse = reuse
        self._states: OrderedDict[tuple[str, bytes], tuple[Tokens[int], bytes]] = OrderedDict()
        self.num_bytes = 0

    def match(self, tokens: "Tokens[int]", namespace: str) -> Kept | None:
        return self._best(tokens, namespace, len(tokens) - 1)

    def fetch(self, hit: Hit) -> bytes | None:
        if not isinstance(hit, Kept) or hit.key not in self._states:
            return None
        self._states.move_to_end(hit.key)
        return self._states[hit.key][1]

    def wants(self, tokens: "Tokens[int]", namespace: str, num_bytes: int) -> bool:
        """False as well for what it has; that counts as used now."""
        if num_bytes > self._limit_bytes:
            return False
        known = self._best(tokens, namespace, len(tokens))
        if known is None or known.length < len(tokens):
            return True
        self._states.move_to_end(known.key)
        return False

    def offer(self, tokens: "Tokens[int]", namespace: str, state: bytes) -> None:
        self._drop_covered(tokens, namespace)
        self._states[namespace, tokens.tobytes()] = tokens, state
        self.num_bytes += len(state)
        while self.num_bytes > self._limit_bytes:
            _, (_, dropped) = self._states.popitem(last=False)
            self.num_bytes -= len(dropped)

    def _best(self, tokens: "Tokens[int]", namespace: str, limit: int) -> Kept | None:
        """Looks at every state; there are a few hundred at most, and most differ early."""
        best = None
        for key, (stored, _) in self._states.items():
            if key[0] == namespace:
                length = common_length(tokens, 0, stored, 0, limit)
                if length > (best.length if best else 0) and self._reuse.fits(length, len(stored)):
                    best = Kept(key, length, len(stored))
        return best

    def _drop_covered(self, tokens: "Tokens[int]", namespace: str) -> None:
        """Drops the states that one after `tokens` is as good as."""
        for key, (stored, state) in list(self._states.items()):
            length = len(stored)
            if key[0] == namespace and stored == tokens[:length] and self._reuse.fits(length, len(tokens)):
                del self._states[key]
                self.num_bytes -= len(state)
