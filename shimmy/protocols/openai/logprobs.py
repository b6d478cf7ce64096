"""Tokens with their probabilities as OpenAI's two APIs show them."""

import codecs
from collections.abc import Callable, Sequence
from typing import Any

from shimmy.core.events import Alternative, TokenLogprob

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Offsets:
    """Where in the text of one choice its tokens begin, in characters."""

    def __init__(self) -> None:
        self._decoder = _new_decoder("replace")
        self._num_chars = 0

    def of(self, tokens: Sequence[TokenLogprob]) -> list[int]:
        """For the tokens that come next. One that goes on with a character begins where that does."""
        offsets = []
        for token in tokens:
            offsets.append(self._num_chars)
            self._num_chars += len(self._decoder.decode(token.bytes))
        return offsets


Form = Callable[[Sequence[TokenLogprob], Offsets], dict[str, Any]]


def chat_form(tokens: Sequence[TokenLogprob], _offsets: Offsets) -> dict[str, Any]:
    """The `logprobs` of a choice of a chat completion."""
    content = [_entry(token) | {"top_logprobs": [_entry(each) for each in token.top]} for token in tokens]
    return {"content": content, "refusal": None}


def completion_form(tokens: Sequence[TokenLogprob], offsets: Offsets) -> dict[str, Any]:
    """The `logprobs` of a choice of a plain completion: the chosen token is always among the alternatives, which the
    first of a prompt does not have."""
    return {
        "tokens": [_text(token) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [None if token.logprob is None else _alternatives(token) for token in tokens],
        "text_offset": offsets.of(tokens),
    }


def _entry(token: TokenLogprob | Alternative) -> dict[str, Any]:
    return {"token": _text(token), "logprob": token.logprob, "bytes": list(token.bytes)}


def _alternatives(token: TokenLogprob) -> dict[str, float | None]:
    """By text; of several tokens with the same text the likeliest."""
    found: dict[str, float | None] = {}
    for each in token.top:
        found.setdefault(_text(each), each.logprob)
    found.setdefault(_text(token), token.logprob)
    return found


def _text(token: TokenLogprob | Alternative) -> str:
    return token.bytes.decode("utf-8", "replace")
