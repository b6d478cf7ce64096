"""What is told of a prompt: its text, and its tokens as they make it. Knows no batch and no logits."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from shimmy.core.events import TokenLogprob
from shimmy.core.request import Generation, Infill, Text


class Vocabulary(Protocol):
    """What this needs of a model (worker/llama/model.py is the real one)."""

    def spellings(self, tokens: list[int]) -> list[bytes]: ...
    def piece(self, token: int) -> bytes | None: ...


class Echo(NamedTuple):
    """Where the tokens are told, too, `pieces` are their bytes in the text; that is none for some."""

    text: str
    pieces: Sequence[bytes] = ()

    @property
    def first(self) -> list[TokenLogprob]:
        """The first token, if tokens are told: nothing comes before it that it could be expected from."""
        return [TokenLogprob(piece, None) for piece in self.pieces[:1]]


class PromptLog:
    """How far the probabilities of a prompt's tokens are known: those that follow its first `num_read` tokens."""

    def __init__(self, echo: Echo, tokens: Sequence[int]) -> None:
        self._pieces = echo.pieces
        self._tokens = tokens
        self.num_read = 0

    @property
    def is_complete(self) -> bool:
        return self.num_read >= len(self._pieces) - 1

    def take(self, end: int, tell: Callable[[int, int], TokenLogprob]) -> list[TokenLogprob]:
        """What is told of the tokens that follow those before `end`, as far as it has not been. `tell(at, token)` says
        it of a token by the logits of the one before it, the prompt's token number `at`."""
        end = min(end, len(self._pieces) - 1)
        told = [self._told(at, tell) for at in range(self.num_read, end)]
        self.num_read = max(self.num_read, end)
        return told

    def _told(self, at: int, tell: Callable[[int, int], TokenLogprob]) -> TokenLogprob:
        return msgspec.structs.replace(tell(at, self._tokens[at + 1]), bytes=self._pieces[at + 1])


def echoed(generation: Generation, tokens: Sequence[int], vocabulary: Vocabulary) -> Echo:
    """The prompt of a request that wants it back; `tokens` are those that are computed."""
    prompt = generation.prompt
    if isinstance(prompt, Infill):
        return Echo(prompt.prefix + prompt.prompt)
    if isinstance(prompt, Text):
        spelled = _spelled(prompt.text.encode(), vocabulary.spellings(list(tokens)))
        if spelled is not None:
            return Echo(prompt.text, spelled if generation.echo_logprobs else ())
    pieces = [vocabulary.piece(token) or b"" for token in tokens]
    text = b"".join(pieces).decode("utf-8", "replace")
    return Echo(text, pieces if generation.echo_logprobs else ())


def _spelled(text: bytes, spellings: Sequence[bytes]) -> list[bytes] | None:
    """What of the text each token stands for; None where they do not make it. Tokens that the tokenizer adds stand for
    nothing, nor does a space that it puts before a text."""
    pieces, at = [], 0
    for spelling in spellings:
        piece = next((each for each in (spelling, spelling.removeprefix(b" ")) if text.startswith(each, at)), b"")
        pieces.append(piece)
        at += len(piece)
    return pieces if at == len(text) else None
