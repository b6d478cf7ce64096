"""When an answer's constraint holds: not before the model has thought, or not before it calls."""

from enum import Enum, auto
from typing import Protocol

import msgspec


class Terms(msgspec.Struct, frozen=True):
    """`is_thinking`: the answer begins within thoughts. As its first token those of `openers` begin some. `callers` are
    the tokens that begin calls where only those are constrained; `held` are the tools whose arguments are, where
    nothing but those is. `is_calls` where nothing is sent as it is."""

    is_thinking: bool = False
    openers: frozenset[int] = frozenset()
    callers: frozenset[int] | None = None
    held: frozenset[str] = frozenset()
    is_calls: bool = False

    @property
    def is_for_calls(self) -> bool:
        """Whether an answer without calls is free."""
        return self.callers is not None or bool(self.held)


class Guide(Protocol):
    """What is asked of the constraint (matcher.py has the real one)."""

    def anew(self) -> "Guide": ...
    def take_text(self, text: str) -> bool: ...
    def take(self, token: int) -> bool: ...
    def mask(self) -> bytes: ...
    def bits(self) -> bytes: ...
    def failure(self) -> Exception: ...
    @property
    def is_complete(self) -> bool: ...
    @property
    def is_whole(self) -> bool: ...
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

    def hold(self, name: str, text: str) -> None:
        """The arguments of a call of the tool `name` are next, and have come as far as `text`. What it must not be is
        there already, and nothing can be held to it any more."""
        if name in self._terms.held:
            self._guide = self._guide.anew()
            is_held = self._guide.take_text(f"{name}\n{text}") and not self._guide.is_whole
            self._state = _State.HELD if is_held else _State.FREE

    def take(self, token: int) -> bool:
        if self._state is _State.HELD:
            return self._take_held(token)
        if self._state is _State.FIRST:
            self._state = _State.THINKING if token in self._terms.openers else self._answering()
            return self._state is _State.THINKING or self.take(token)
        if self._state is _State.FREE and self._terms.callers and token in self._terms.callers:
            # What it does not know stays what the model makes of it.
            self._state = _State.HELD if self._guide.take(token) else _State.FREE
        return True

    def _take_held(self, token: int) -> bool:
        is_taken = self._guide.take(token)
        if is_taken and self._terms.held and self._guide.is_whole:
            self._state = _State.FREE
        return is_taken

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
        return self._state is _State.FREE or self._terms.is_for_calls

    def _answering(self) -> _State:
        return _State.FREE if self._terms.is_for_calls else _State.HELD
