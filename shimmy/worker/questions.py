"""Answers what the server asks of a model's vocabulary and template. Runs on the intake thread, beside the steps."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from shimmy.core import ipc
from shimmy.core.errors import RequestError
from shimmy.core.request import Chat, Prompt, Text

PART_TOKENS = 1 << 12
PART_CHARS = 1 << 13

if TYPE_CHECKING:
    from shimmy.worker.prompt import Vocabulary


class Prompter(Protocol):
    """What makes tokens of prompts (worker/prompt.py is the one of models that generate)."""

    def tokens(self, prompt: Prompt, /) -> list[int]: ...
    def rendered(self, chat: Chat, /) -> str: ...


def answer(
    question: ipc.Question, prompter: Prompter, vocabulary: "Vocabulary"
) -> ipc.Tokenized | ipc.Counted | ipc.Written:
    """Raises `RequestError` naming what is wrong with it."""
    match question:
        case ipc.Tokenize():
            return _tokenized(question, prompter, vocabulary)
        case ipc.CountTokens(prompt):
            return ipc.Counted(len(prompter.tokens(prompt)))
        case ipc.Detokenize(tokens):
            return _written(tokens, vocabulary)
        case ipc.Render(chat):
            return ipc.Written(prompter.rendered(chat))


def parts(answer: ipc.Tokenized | ipc.Counted | ipc.Written) -> Iterator[ipc.Tokenized | ipc.Counted | ipc.Written]:
    """An answer in frames that the pipe takes at once."""
    match answer:
        case ipc.Tokenized(tokens, pieces) if len(tokens) > PART_TOKENS:
            for at in range(0, len(tokens), PART_TOKENS):
                yield ipc.Tokenized(tokens[at : at + PART_TOKENS], pieces[at : at + PART_TOKENS])
        case ipc.Written(text) if len(text) > PART_CHARS:
            for at in range(0, len(text), PART_CHARS):
                yield ipc.Written(text[at : at + PART_CHARS])
        case _:
            yield answer


def _tokenized(question: ipc.Tokenize, prompter: Prompter, vocabulary: "Vocabulary") -> ipc.Tokenized:
    prompt = question.prompt
    if isinstance(prompt, Text):
        tokens = vocabulary.tokenize(
            prompt.text, add_special=question.add_special, parse_special=question.parse_special
        )
    else:
        tokens = prompter.tokens(prompt)
    return ipc.Tokenized(tokens, vocabulary.spellings(tokens) if question.spelled else [])


def _written(tokens: list[int], vocabulary: "Vocabulary") -> ipc.Written:
    try:
        pieces = vocabulary.spellings(tokens)
    except RequestError as error:
        raise RequestError(error.message, param="tokens") from error
    return ipc.Written(b"".join(pieces).decode("utf-8", "replace"))
