"""Follows one answer through its constraint, token by token. Knows tokens and bytes, nothing of logits."""

import json
import re
from typing import Any

from shimmy.core.errors import RequestError

# How llguidance calls a grammar that derives no finite text.
_WITHOUT_END = "NoExtensionBias"
# Where it cannot tell that no value meets two of the schemas; whoever asks has no such option.
_ONE_OF = "coerce_one_of"
# In a mask, for a token that may come (LLMatcher.compute_logit_bias).
ALLOWED = b"\xc8"

# "   2 | start: ..." and what points into it; "at 2(8): ", which counts lines that nobody has sent.
_SOURCE = re.compile(r"\d+ \||\^+$")
_PLACE = re.compile(r"^(?:at )?\d+\(\d+\): ")


class Compiled:
    """A constraint, ready to be followed any number of times, from any thread."""

    def __init__(self, native: Any, tokenizer: Any, field: str, *, is_json: bool) -> None:
        """`native` is an LLMatcher at the beginning."""
        self._native = native
        self._tokenizer = tokenizer
        self.field = field
        self.is_json = is_json
        # All that follow it share what llguidance finds out on the way, and a limit that one of them reached.
        self.is_spent = False

    def guide(self) -> "Guide":
        return Guide(self, self._native.deep_copy())

    def tokens(self, text: str) -> list[int]:
        """Some that spell it."""
        tokens: list[int] = self._tokenizer.greedy_tokenize(text)
        return tokens

    def accepts(self, text: str) -> bool:
        """Whether a whole text meets the constraint."""
        native = self._native.deep_copy()
        tokens = self.tokens(text)
        return bool(native.try_consume_tokens(tokens) == len(tokens) and native.is_accepting())


class Guide:
    """One answer's place in its constraint. The limits of llguidance hold for each token: it costs 5 ms at most."""

    def __init__(self, compiled: Compiled, native: Any) -> None:
        self._compiled = compiled
        self._native = native

    def begin(self) -> None:
        """It has begun already (gate.py)."""

    def hold(self, name: str, text: str) -> None:
        """All of the answer is held."""

    def anew(self) -> "Guide":
        """Another one, at the beginning."""
        return self._compiled.guide()

    def take_text(self, text: str) -> bool:
        """Whether `text` may come next, in whatever tokens; if so, it has."""
        tokens = self._compiled.tokens(text)
        return bool(self._native.try_consume_tokens(tokens) == len(tokens))

    def take(self, token: int) -> bool:
        """Whether `token` may come next; if so, it has."""
        return bool(self._native.try_consume_tokens([token]))

    def mask(self) -> bytes:
        """A byte for each token, `ALLOWED` or 0. Raises `RequestError` when the constraint is too
        complex at this place, or nothing may come."""
        mask: bytes = self._native.compute_logit_bias()
        if ALLOWED not in mask:
            raise self.failure()
        return mask

    def bits(self) -> bytes:
        """The same with a bit for each token, the lowest first. It takes less time where much may come."""
        bits: bytes = self._native.compute_bitmask()
        return bits

    def failure(self) -> RequestError:
        """Why it goes no further."""
        self._compiled.is_spent = True
        field = self._compiled.field
        reason = explained(self._native.get_error()) or "no token of the model may follow"
        return RequestError(f"{field}: the answer cannot go on: {reason}", param=field)

    @property
    def is_complete(self) -> bool:
        """Whether nothing but the end may follow."""
        return bool(self._native.is_stopped())

    @property
    def is_whole(self) -> bool:
        """Whether it may end here."""
        return bool(self._native.is_accepting())

    def is_met(self, text: str, *, is_cut: bool) -> bool:
        """Whether the answer that was sent, `text`, meets the constraint; `is_cut` if its end was not."""
        if is_cut:
            return self._compiled.accepts(text)
        return self.is_whole and (not self._compiled.is_json or _is_json(text))


def explained(error: str) -> str:
    """llguidance's message without the text it is about, and without what is only of use to its authors."""
    lines = (line.strip() for line in error.replace("<non-verbose/>", "").splitlines())
    told = " ".join(line for line in lines if line and not _SOURCE.match(line))
    if told.endswith(_WITHOUT_END):
        return "nothing can meet it: it refers to itself without an end"
    if _ONE_OF in told:
        return "oneOf: a value may meet two of its schemas; anyOf says that it may"
    return _PLACE.sub("", told).removeprefix("failed to compile JSON schema: ")[:300]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
