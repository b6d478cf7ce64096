"""Thoughts are told from the answer, however the text was split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.request import Chat, Message
from shimmy.worker.chat.parts import Content, Thought
from shimmy.worker.chat.reasoning import KNOWN, Marks, Place, Splitter, is_open, recognise

MARKS = Marks("<think>", "</think>")
PIECES = ["<think>", "</think>", "<th", "ink>", "</", " ", "\n", "a", "b<", "é", "<tool_call>"]


def run(pieces: list[str], place: Place, *, is_raw: bool = False) -> tuple[str, str, bool]:
    """The thoughts, the content, and whether it ended thinking. All thoughts come before all content."""
    splitter, thoughts, texts = Splitter(MARKS, place, is_raw=is_raw), "", ""
    parts = [part for piece in pieces for part in splitter.push(piece)]
    for part in parts + splitter.finish():
        assert isinstance(part, Content | Thought) and part.text
        if isinstance(part, Thought):
            assert not texts
            thoughts += part.text
        else:
            texts += part.text
    return thoughts, texts, splitter.is_thinking


def split(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]


texts = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(texts, st.lists(st.integers(0, 200), max_size=20), st.sampled_from(list(Place)), st.booleans())
def test_any_split_gives_the_same(text: str, cuts: list[int], place: Place, is_raw: bool) -> None:
    assert run(split(text, cuts), place, is_raw=is_raw) == run([text], place, is_raw=is_raw)


@given(texts, st.sampled_from(list(Place)))
def test_raw_thoughts_lose_nothing(text: str, place: Place) -> None:
    thoughts, content, _ = run(list(text), place, is_raw=True)
    assert thoughts + content == text


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("<think>\nso\n</think>\n\nyes", Place.BEFORE, ("so", "yes", False)),
        ("\n<think>so</think>yes\n", Place.BEFORE, ("so", "yes\n", False)),
        ("so\n</think>\nyes", Place.THINKING, ("so", "yes", False)),
        ("so < it </thin", Place.THINKING, ("so < it </thin", "", True)),
        ("<think></think>yes", Place.BEFORE, ("", "yes", False)),
        (" yes <think>no</think>", Place.BEFORE, ("", " yes <think>no</think>", False)),
        ("<think>so</think>yes</think>", Place.BEFORE, ("so", "yes</think>", False)),
        ("<thi", Place.BEFORE, ("", "<thi", False)),
        ("<think>so", Place.AFTER, ("", "<think>so", False)),
        (" yes", Place.AFTER, ("", " yes", False)),
        (" \n", Place.BEFORE, ("", " \n", False)),
    ],
)
def test_thoughts_and_content(text: str, place: Place, expected: tuple[str, str, bool]) -> None:
    assert run([text], place) == expected


def test_text_leaves_as_soon_as_it_is_certain() -> None:
    splitter = Splitter(MARKS, Place.BEFORE)
    assert splitter.push("<think>") == [] and splitter.is_thinking
    assert splitter.push("so </th") == [Thought("so")]
    assert splitter.push("at </think> y") == [Thought(" </that"), Content("y")]
    assert splitter.push("es </think>") == [Content("es </think>")]


@pytest.mark.parametrize(("text", "spills"), [("k>", False), ("k>\n", False), ("k>{", True), ("x>{", False)])
def test_a_token_that_ends_the_thoughts_and_more(text: str, spills: bool) -> None:
    splitter = Splitter(MARKS, Place.THINKING)
    splitter.push("so</thin")
    assert splitter.spills(text) == spills


def test_marks_are_recognised_by_the_template() -> None:
    assert recognise(None) is None and recognise("{{ messages }}") is None
    for marks in KNOWN:
        assert recognise(f"{{{{ '{marks.begin}\\n' }}}}") == marks
        assert recognise(f"{{{{ m.content.split('{marks.end}')[-1] }}}}") == marks


USER, ASSISTANT = Message("user", "hi <think>"), "assistant"


@pytest.mark.parametrize(
    ("prompt", "messages", "continues", "expected"),
    [
        ("<user>hi<assistant><think>\n", [USER], False, True),
        ("<user>hi<assistant><think>\n\n</think>\n\n", [USER], False, False),
        ("<user>hi <think><assistant>", [USER], False, False),
        ("..", [USER, Message(ASSISTANT, "<think>so")], True, True),
        ("..", [USER, Message(ASSISTANT, "<think>so</think>yes")], True, False),
        ("..", [USER, Message(ASSISTANT, "", reasoning="so")], True, True),
        ("..", [USER, Message(ASSISTANT, "yes", reasoning="so")], True, False),
    ],
)
def test_whether_the_prompt_has_begun_the_thoughts(
    prompt: str, messages: list[Message], continues: bool, expected: bool
) -> None:
    assert is_open(MARKS, prompt, Chat(messages, continue_final=continues)) == expected
