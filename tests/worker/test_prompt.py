"""Prompts that fit become tokens; those that do not are refused with the field and the counts."""

import pytest

from shimmy.core.errors import ContextOverflow, RequestError, TooLarge
from shimmy.core.request import Chat, Generation, Message, Prompt, Sampling, Speculative, Text, Tokens
from shimmy.worker.chat.template import ChatTemplate
from shimmy.worker.llama.model import InfillTokens
from shimmy.worker.prompt import Prompter
from shimmy.worker.sequence import Request


class Letters:
    """A vocabulary whose tokens are characters; "^" is its BOS token, which it adds to everything."""

    adds_bos = True
    bos_token = ord("^")

    def text_of(self, token: int | None) -> str:
        return "" if token is None else chr(token)

    infill_tokens = InfillTokens(ord("("), ord("|"), ord(")"), ord("@"), ord("#"))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        text = text if parse_special else text.replace("(", "?")
        return [ord("^")] * add_special + [ord(letter) for letter in text]

    def spellings(self, tokens: list[int]) -> list[bytes]:
        return [chr(token).encode() for token in tokens]

    def piece(self, token: int) -> bytes | None:
        return chr(token).encode()

    def check_tokens(self, tokens: list[int]) -> None:
        for token in tokens:
            if token >= 1000:
                raise RequestError(f"token id {token} is outside the vocabulary", param="prompt")


TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"


def prompter(context_length: int = 100, template: str | None = TEMPLATE) -> Prompter:
    return Prompter(Letters(), ChatTemplate(template, bos_token="^", eos_token="$"), context_length)


def generation(prompt: Prompt, **fields: object) -> Generation:
    return Generation(id="1", model="m", prompt=prompt, **fields)  # type: ignore[arg-type]


def text_of(tokens: object) -> str:
    return "".join(chr(token) for token in tokens)  # type: ignore[attr-defined]


def test_a_bos_token_that_the_template_spells_is_not_doubled() -> None:
    request = prompter().prepare(generation(Chat([Message("user", "hi")])))
    assert text_of(request.prompt) == "^hi"


def test_raw_text_and_tokens_pass_the_template_by() -> None:
    assert text_of(prompter().prepare(generation(Text("hi"))).prompt) == "^hi"
    assert list(prompter().prepare(generation(Tokens([1, 2, 3]))).prompt) == [1, 2, 3]


def test_a_prompt_as_long_as_the_context_leaves_no_room_to_answer() -> None:
    assert prompter(5).prepare(generation(Tokens([1] * 4)))
    with pytest.raises(ContextOverflow) as caught:
        prompter(5).prepare(generation(Tokens([1] * 5)))
    assert caught.value.details == {"num_prompt_tokens": 5, "context_length": 5}
    assert caught.value.param == "prompt"


def test_an_overflowing_chat_names_its_messages() -> None:
    with pytest.raises(ContextOverflow) as caught:
        prompter(5).prepare(generation(Chat([Message("user", "much too long")])))
    assert caught.value.param == "messages"


def refuse_everything(vocabulary: "Letters", text: str, *, add_special: bool) -> list[int]:
    raise TooLarge("the prompt has too many tokens to count", param="prompt")


def test_a_chat_that_cannot_be_tokenized_names_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Letters, "tokenize", refuse_everything)
    for prompt, field in ((Chat([Message("user", "hi")]), "messages"), (Text("hi"), "prompt")):
        with pytest.raises(TooLarge) as caught:
            prompter().prepare(generation(prompt))
        assert caught.value.param == field


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        prompter().prepare(generation(Tokens([])))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": Tokens([1, 5000])}, "prompt"),
        ({"prompt": Text("x"), "sampling": Sampling(logit_bias={5000: 1.0})}, "logit_bias"),
    ],
)
def test_token_ids_outside_the_vocabulary_never_reach_the_library(fields: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        prompter().prepare(Generation(id="1", model="m", **fields))  # type: ignore[arg-type]
    assert caught.value.param == param


def stops_of(request: Request) -> list[str]:
    scan = request.sequences[0].text._scan
    return [] if scan is None else scan._stops


def test_chatml_brings_its_stops_to_chats_only() -> None:
    chat = prompter(template=None).prepare(generation(Chat([Message("user", "hi")]), stop=["x"]))
    assert stops_of(chat) == ["x", "<|im_end|>", "<|im_start|>"]
    raw = prompter(template=None).prepare(generation(Text("hi"), stop=["x"]))
    assert stops_of(raw) == ["x"]


@pytest.mark.parametrize(
    ("wish", "tokens"),
    [(Speculative(), "hello"), (Speculative(type="ngram"), "hello"), (Speculative(type="none"), "")],
)
def test_a_prediction_becomes_tokens_where_it_is_looked_at(wish: Speculative, tokens: str) -> None:
    request = prompter().prepare(generation(Tokens([1]), prediction="hello", speculative=wish))
    assert text_of(request.prediction) == tokens


def test_of_a_long_prediction_no_more_is_kept_than_could_be_said() -> None:
    assert len(prompter(100).prepare(generation(Tokens([1]), prediction="x" * 500)).prediction) == 100


def test_a_prediction_that_is_no_text_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Letters, "tokenize", refuse_everything)
    with pytest.raises(TooLarge, match="the prediction has") as caught:
        prompter().prepare(generation(Tokens([1]), prediction="hello"))
    assert caught.value.param == "prediction"


def test_a_draft_model_that_is_not_there_cannot_be_asked() -> None:
    wish = Speculative(type="draft")
    with pytest.raises(RequestError) as caught:
        prompter().prepare(generation(Tokens([1]), speculative=wish))
    assert caught.value.param == "speculative.type"
    template = ChatTemplate(TEMPLATE, bos_token="^", eos_token="$")
    assert Prompter(Letters(), template, 100, has_draft_model=True).prepare(generation(Tokens([1]), speculative=wish))
