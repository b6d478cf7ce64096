"""What holds for every dialect, whatever a model writes and however it comes."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shimmy.worker.chat.parts import Content
from shimmy.worker.chat.toolcalls import Dialect
from shimmy.worker.chat.toolcalls import reading as module
from shimmy.worker.chat.toolcalls.reading import Reading
from tests.worker.chat.toolcalls.answers import TOOLS, answer, pieces, read
from tests.worker.chat.toolcalls.dialects import every_dialect

DIALECTS = every_dialect()
EACH = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
TEXTS = {
    path.stem: [case["text"] for case in json.loads(path.read_text("utf-8"))]
    for path in (Path(__file__).parent / "golden").glob("*.json")
}
SNIPPETS = [*"{}[]():;,=<|>'1 \"\\\n\x00é\U0001f600", '{"name": "now", ', '"arguments": ', '"parameters": {']
SNIPPETS += ["\\u00e9", "\\ud83d", "-1.50e3", "tru", "True", "None", "now", "city", "get_weather", "call:", "```"]
SNIPPETS += ["```json", "functions.", "to=", "all\n", ".call(", ' string="false">']


@st.composite
def texts(draw: st.DrawFn, dialect: Dialect) -> str:
    """Transcripts that were cut and put together in other ways, with marks and signs between."""
    known = TEXTS[dialect.name]
    parts = st.one_of(
        st.sampled_from(known),
        st.sampled_from(known).flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[:at])),
        st.sampled_from(known).flatmap(lambda text: st.integers(0, len(text)).map(lambda at: text[at:])),
        st.sampled_from([*dialect.marks, *SNIPPETS]),
        st.text(max_size=5),
    )
    return "".join(draw(st.lists(parts, max_size=6)))


@EACH
@settings(max_examples=20)
@given(st.data())
def test_parts_do_not_depend_on_how_the_text_is_split(dialect: Dialect, data: st.DataObject) -> None:
    text = data.draw(texts(dialect))
    ways: dict[str, Any] = {"parallel": data.draw(st.booleans()), "is_cut": data.draw(st.booleans())}
    whole = read(dialect, [text], **ways)
    at, split = 0, []
    for size in data.draw(st.lists(st.integers(1, 9), max_size=40)):
        split.append(text[at : at + size])
        at += size
    assert read(dialect, [*split, text[at:]], **ways) == whole
    assert read(dialect, list(text), **ways) == whole


@EACH
@settings(max_examples=20)
@given(st.data())
def test_nothing_is_lost_of_a_text_without_calls(dialect: Dialect, data: st.DataObject) -> None:
    text = data.draw(texts(dialect))
    found = answer(read(dialect, [text]))
    # The headers of parts are no content.
    if not found.calls and dialect.name not in ("harmony", "functionary-v3.2"):
        assert found.content == text


@EACH
@given(st.text())
def test_plain_text_is_content(dialect: Dialect, text: str) -> None:
    # Hypothesis tries strings that stand in the code, too.
    assume(not any(mark in text for mark in dialect.marks))
    assert answer(read(dialect, [text])).content == text


@EACH
@settings(max_examples=20)
@given(st.data())
def test_complete_calls_have_an_object_for_arguments(dialect: Dialect, data: st.DataObject) -> None:
    found = answer(read(dialect, [data.draw(texts(dialect))]))
    broken = [call for call in found.calls if not is_object(call.arguments)]
    assert len(broken) <= len(found.doubts)


@EACH
def test_content_is_not_held_back(dialect: Dialect) -> None:
    parser = dialect.parser(TOOLS, True)
    parser.push("all\nHello" if dialect.name == "functionary-v3.2" else "Hello")
    assert parser.push(" you, there is no mark") == [Content(" you, there is no mark")]


@EACH
def test_without_parallel_there_is_one_call(dialect: Dialect) -> None:
    several = [text for text in TEXTS[dialect.name] if len(answer(read(dialect, [text])).calls) > 1]
    for text in several:
        found = answer(read(dialect, [text], parallel=False))
        assert len(found.calls) == 1 and found.content


@EACH
def test_what_waits_for_more_text_is_no_longer_than_a_mark(dialect: Dialect) -> None:
    """So that each character is looked at a few times at most, however many come."""
    longest = max(map(len, (*dialect.marks, "<｜DSML｜parameter name=")))
    for text in hostile(dialect, 1_000):
        parser = dialect.parser(TOOLS, True)
        assert isinstance(parser, Reading)
        for piece in pieces(text, 3):
            parser.push(piece)
            assert parser.available <= longest


@EACH
def test_time_grows_with_the_text_and_not_faster(dialect: Dialect) -> None:
    for few, many in zip(hostile(dialect, 500), hostile(dialect, 8_000), strict=True):
        # 16 times would be linear, and 256 quadratic.
        assert seconds(dialect, many) < 64 * max(seconds(dialect, few), 1e-4)


def test_a_megabyte_in_small_pieces() -> None:
    dialect = next(dialect for dialect in DIALECTS if dialect.name == "hermes")
    text = '<tool_call>{"name": "python", "arguments": {"code": "' + "a" * 1_000_000 + '"}}</tool_call>'
    found = answer(read(dialect, pieces(text, 64)))
    assert not found.doubts and len(found.calls[0].arguments) > 1_000_000


def test_a_call_that_does_not_end_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CALL_CHARS", 100)
    for dialect in DIALECTS:
        for text in TEXTS[dialect.name]:
            for filler in ("x", "{", " ", '"', "1"):
                long = text[: len(text) // 2] + filler * 300
                assert read(dialect, list(long)) == read(dialect, [long])


def hostile(dialect: Dialect, size: int) -> list[str]:
    """Texts of about so many characters."""
    starts = [text[: len(text) * 2 // 3] for text in TEXTS[dialect.name][:2]]
    marks = "".join(mark + mark[:-1] for mark in dialect.marks) or "["
    begin = (dialect.begins or dialect.also_begins or ("\n[now(",))[0]
    units = ["[", "{", begin, marks, " \n", *(start + mark for start in starts for mark in dialect.marks[:2])]
    return [starts[0] + unit * (size // len(unit)) for unit in units]


def seconds(dialect: Dialect, text: str) -> float:
    parts = pieces(text, 5)
    taken = []
    for _ in range(2):
        start = time.process_time()
        read(dialect, parts)
        taken.append(time.process_time() - start)
    return min(taken)


def is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
