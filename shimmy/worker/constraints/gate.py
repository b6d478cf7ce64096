"""When an answer's constraint begins: not before the model has thought, or not before it calls."""

from enum import Enum, auto
from typing import Protocol

import msgspec


class Terms(msgspec.Struct, frozen=True):
    """`is_thinking`: the answer begins within thoughts. As its first token those of `openers` begin some. `callers` are
    the tokens that begin calls where only those are constrained. `is_calls` where nothing is sent as it is."""

    is_thinking: bool = False
    openers: frozenset[int] = frozenset()
    callers: frozenset[int] | None = None
    is_calls: bool = False


class Guide(Protocol):
    """What is asked of the constraint (matcher.py has the real one)."""

    def take(self, token: int) -> bool: ...
    def mask(self) -> bytes: ...
    def bits(self) -> bytes: ...
    def failure(self) -> Exception: ...
    @property
    def is_complete(self) -> bool: ...
    def is_met(self, text: str, *, is_cut: bool) -> bool: ...


class _State(Enum):
    FIRST = auto()
    THINKING = auto()
    FREE = auto()
    HELD = auto()


class Gate:
    """A guide that lets everything pass until it is time."""

    def __init__(self, guide: Guide, terms: Terms) -> None:
        self._guide = guide
        self._terms = terms
        if terms.is_thinking:
            self._state = _State.THINKING
        else:
            self._state = _State.FIRST if terms.openers else self._answering()

    def begin(self) -> None:
        """The thoughts have ended."""
        if self._state is _State.THINKING:
            self._state = self._answering()

    def take(self, token: int) -> bool:
        if self._state is _State.HELD:
            return self._guide.take(token)
        if self._state is _State.FIRST:
            self._state = _State.THINKING if token in self._terms.openers else self._answering()
            return self._state is _State.THINKING or self.take(token)
        if self._state is _State.FREE and self._terms.callers and token in self._terms.callers:
            # What it does not know stays what the model makes of it.
            self._state = _State.HELD if self._guide.take(token) else _State.FREE
        return True

    def mask(self) -> bytes:
        return self._guide.mask()

    def bits(self) -> bytes:
        return self._guide.bits()

    def failure(self) -> Exception:
        return self._guide.failure()

    @property
    def is_complete(self) -> bool:
        return self._state is _State.HELD and self._guide.is_complete

    def is_met(self, text: str, *, is_cut: bool) -> bool:
        """Calls are what their tokens were, whatever was sent of them."""
        if self._state is _State.HELD:
            return self._guide.is_met(text, is_cut=is_cut and not self._terms.is_calls)
        return self._state is _State.FREE

    def _answering(self) -> _State:
        return _State.HELD if self._terms.callers is None else _State.FREE
