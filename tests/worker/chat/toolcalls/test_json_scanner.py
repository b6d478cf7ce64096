"""The scanner takes JSON as json.loads does, however it comes, and no more than one value of a text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.worker.chat.toolcalls.json_scanner import MAX_DEPTH, JsonScanner, NotJson, as_json, unquoted

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.booleans(), st.sampled_from([None, 2]))
def test_json_is_taken_as_it_is(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert as_json(f" {text} ") == text


@given(VALUES, st.text(alphabet='{}[]",:0 \n\\tx', max_size=8), st.data())
def test_what_is_not_json_is_refused_at_the_same_place_however_it_is_split(
    value: Any, junk: str, data: st.DataObject
) -> None:
    text = json.dumps(value)
    at = data.draw(st.integers(0, len(text)))
    text = text[:at] + junk + text[at:] + "\n"
    assert scanned([text]) == scanned(list(text))


@given(st.text(alphabet='{}[]",:0-1.e5 \n\\utrfalsn', max_size=12))
def test_what_json_loads_refuses_is_refused(text: str) -> None:
    try:
        value = json.loads(text, strict=False)
    except ValueError:
        assert as_json(text) is None
    else:
        written = as_json(text)
        assert written is not None and json.loads(written) == value


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("1.50", "1.50"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("True", "true"),
        ("None", "null"),
        ('"a\nb\tc\x01"', '"a\\nb\\tc\\u0001"'),
        ("NaN", None),
        ("01", None),
        ("+1", None),
        ("{'a': 1}", None),
        ('{"a": 1,}', None),
        ("[1] 2", None),
        ("", None),
    ],
)
def test_what_is_written(text: str, written: str | None) -> None:
    assert as_json(text) == written


def test_depth_has_a_limit() -> None:
    assert as_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    assert as_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1)) is None


def test_a_value_ends_where_another_begins() -> None:
    scanner = JsonScanner()
    assert scanner.feed('{"a": [1]}{"b"', 0) == (10, '{"a": [1]}') and scanner.is_done


def test_halves_of_characters_are_replaced_in_names() -> None:
    assert unquoted('"\\ud83d\\ude00"') == "\U0001f600"
    assert unquoted('"a\\ud83d"') == "a�"


def scanned(pieces: list[str]) -> tuple[str, str, bool, bool]:
    """What was read, what was written, and whether it was a value, or could not become one."""
    scanner, read, written, is_wrong = JsonScanner(), "", "", False
    for piece in pieces:
        if scanner.is_done or is_wrong:
            break
        try:
            end, text = scanner.feed(piece, 0)
        except NotJson as error:
            end, text, is_wrong = error.at, error.written, True
        read, written = read + piece[:end], written + text
    return read, written, scanner.is_done, is_wrong
