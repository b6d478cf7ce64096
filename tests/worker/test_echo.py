"""What the tokens of a prompt stand for in its text."""

from collections.abc import Sequence

import pytest

from shimmy.core.request import Generation, Infill, Prompt, Text, Tokens
from shimmy.worker.echo import Echo, echoed

WORDS = ["<s>", " one", " two", "one", "\u00e9", "</s>"]


class Words:
    """Controls are spelled, but add nothing to a text."""

    def spellings(self, tokens: Sequence[int]) -> list[bytes]:
        return [WORDS[token].encode() for token in tokens]

    def piece(self, token: int) -> bytes | None:
        return None if token == 5 else b"" if token == 0 else WORDS[token].encode()


@pytest.mark.parametrize(
    ("prompt", "tokens", "text", "pieces"),
    [
        (Text("one two"), [3, 2], "one two", ["one", " two"]),
        (Text("one two"), [0, 1, 2], "one two", ["", "one", " two"]),
        (Text("<s> one</s>"), [0, 1, 5], "<s> one</s>", ["<s>", " one", "</s>"]),
        # Its tokens spell something else, because it was cut or written in another form.
        (Text("one two"), [0, 2], " two", ["", " two"]),
        (Text("ONE"), [3], "one", ["one"]),
        (Tokens([0, 1, 4, 5]), [0, 1, 4, 5], " one\u00e9", ["", " one", "\u00e9", ""]),
    ],
)
def test_the_tokens_of_a_prompt_make_its_text(prompt: Prompt, tokens: list[int], text: str, pieces: list[str]) -> None:
    encoded = [piece.encode() for piece in pieces]
    told = generation(prompt, logprobs=0, echo_logprobs=True)
    assert echoed(told, tokens, Words()) == Echo(text, encoded)
    assert [(token.bytes, token.logprob) for token in Echo(text, encoded).first] == [(encoded[0], None)]
    assert echoed(generation(prompt), tokens, Words()) == Echo(text)


def test_a_text_with_a_gap_is_told_up_to_the_gap() -> None:
    assert echoed(generation(Infill("a", "z", "b")), [1, 2], Words()) == Echo("ab")


def generation(prompt: Prompt, logprobs: int | None = None, echo_logprobs: bool = False) -> Generation:
    return Generation(id="a", model="m", prompt=prompt, echo=True, logprobs=logprobs, echo_logprobs=echo_logprobs)
