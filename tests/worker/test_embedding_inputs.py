"""What becomes of inputs before anything is computed, with a vocabulary of words."""

from typing import Any

import pytest

from shimmy.core.errors import ContextOverflow, RequestError, TooLarge, Unsupported
from shimmy.core.request import Embedding, Pooling, Truncation
from shimmy.worker.embedding_inputs import InputReader

BOS, EOS, WORD = 1, 2, 10


class FakeModel:
    """Each word is a token: its length and 10. `<e>` is an end token where special tokens are parsed."""

    def __init__(
        self,
        *,
        is_encoder: bool = False,
        stated_pooling: Pooling | None = None,
        rank_template: str | None = None,
        vector_width: int = 4,
    ) -> None:
        self.is_encoder = is_encoder
        self.stated_pooling = stated_pooling
        self.rank_template = rank_template
        self.vector_width = vector_width
        self.joints = [BOS], [EOS, EOS], [EOS]

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        if "\ud800" in text:
            raise RequestError("the prompt is not valid Unicode: surrogates not allowed", param="prompt")
        if len(text) > 1000:
            raise TooLarge(f"the prompt has {len(text)} bytes", param="prompt")
        words = [EOS if word == "<e>" and parse_special else WORD + len(word) for word in text.split()]
        return [BOS, *words] if add_special else words

    def check_tokens(self, tokens: list[int]) -> None:
        if any(token > 99 for token in tokens):
            raise RequestError("token id 100 is outside the vocabulary of 100", param="prompt")


def prepare(*inputs: str | list[int], model: FakeModel | None = None, **fields: Any) -> tuple[list[list[int]], Pooling]:
    request = Embedding(id="a", model="m", inputs=list(inputs), **fields)
    job = InputReader(model or FakeModel(), 6).prepare(request)
    return [each.tolist() for each in job.inputs], job.pooling


def test_text_gets_special_tokens_and_ids_do_not() -> None:
    assert prepare("a bb <e>", [5, 6])[0] == [[BOS, 11, 12, EOS], [5, 6]]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (FakeModel(), "last"),
        (FakeModel(stated_pooling="none"), "last"),
        (FakeModel(stated_pooling="mean"), "mean"),
        (FakeModel(is_encoder=True), "mean"),
        (FakeModel(is_encoder=True, stated_pooling="cls"), "cls"),
    ],
)
def test_the_pooling_is_the_files_own(model: FakeModel, expected: Pooling) -> None:
    assert prepare("a", model=model)[1] == expected
    assert prepare("a", model=model, pooling="cls")[1] == "cls"


def test_a_query_and_a_text_stand_between_the_marks() -> None:
    model = FakeModel(stated_pooling="rank")
    inputs, pooling = prepare("<e>", model=model, query="a")
    # What looks like a special token in a document is none.
    assert (inputs, pooling) == ([[BOS, 11, EOS, EOS, 13, EOS]], "rank")


def test_a_template_says_how_to_ask() -> None:
    model = FakeModel(stated_pooling="rank", rank_template="{query} <e> {document}")
    assert prepare("{query}", model=model, query="{document}")[0] == [[WORD + 10, EOS, WORD + 7]]


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (["a", "a a a a a a"], ContextOverflow, "input[1]: it has 7 tokens; the model takes 6 at most"),
        (["a", [100]], RequestError, "input[1]: token id 100 is outside the vocabulary of 100"),
        (["a", []], RequestError, "input[1]: it has no tokens"),
        (["a", "\ud800"], RequestError, "input[1]: it is not valid Unicode: surrogates not allowed"),
        (["a", "a" * 2000], TooLarge, "input[1]: it has 2000 bytes"),
    ],
)
def test_what_is_wrong_is_named(inputs: list[str | list[int]], error: type[RequestError], message: str) -> None:
    with pytest.raises(error) as caught:
        prepare(*inputs)
    assert (caught.value.message, caught.value.param) == (message, "input[1]")


def test_one_that_stands_alone_has_no_number() -> None:
    with pytest.raises(RequestError) as caught:
        prepare([], field="content")
    assert (caught.value.message, caught.value.param) == ("content: it has no tokens", "content")


@pytest.mark.parametrize(
    ("stated", "fields", "param"),
    [
        (None, {"query": "a"}, "model"),
        (None, {"pooling": "rank"}, "pooling"),
        ("rank", {}, "model"),
        ("rank", {"pooling": "rank"}, "pooling"),
    ],
)
def test_who_ranks_does_nothing_else(stated: Pooling | None, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Unsupported) as caught:
        prepare("a", model=FakeModel(stated_pooling=stated), **fields)
    assert caught.value.param == param


def test_more_dimensions_than_there_are() -> None:
    assert prepare("a", dimensions=4)[0]
    with pytest.raises(RequestError, match="dimensions: 5 are more than the model's 4"):
        prepare("a", dimensions=5)


def test_what_is_too_long_is_cut_where_that_was_asked_for_and_its_marks_stay() -> None:
    words = "a bb ccc dddd eeeee ffffff <e>"
    assert prepare(words, truncation=Truncation("last_tokens"))[0] == [[BOS, 11, 12, 13, 14, EOS]]
    assert prepare(words, truncation=Truncation("first_tokens", 4))[0] == [[BOS, 15, 16, EOS]]
    assert prepare([5, 6, 7, 8], truncation=Truncation("last_tokens", 2))[0] == [[5, 6]]
    assert prepare("a bb", truncation=Truncation("last_tokens", 3))[0] == [[BOS, 11, 12]]
    with pytest.raises(ContextOverflow):
        prepare(words, truncation=Truncation("last_tokens", 7))
