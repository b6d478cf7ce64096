"""Values as Python writes them, which most JSON is as well. They become JSON as they come."""

import re
import sys
from collections.abc import Callable

from shimmy.worker.chat.toolcalls.json_scanner import MAX_DEPTH, MAX_SCALAR_CHARS, as_json, quoted
from shimmy.worker.chat.toolcalls.reading import Malformed, Reading, Steps

_SCALAR = re.compile(r"[-+.\w]*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": "", **{char: char for char in "\\'\"/"}}
_HEX = re.compile("[0-9A-Fa-f]+")
_CODES = {"x": 2, "u": 4, "U": 8}

Write = Callable[[str], None]


def read_value(reading: Reading, write: Write, depth: int = 0) -> Steps[None]:
    first = yield from reading.peek()
    if depth == MAX_DEPTH:
        raise Malformed(f"a call is nested more than {MAX_DEPTH} deep")
    if first in ("'", '"'):
        yield from _read_string(reading, write)
    elif first in ("[", "("):
        yield from _read_items(reading, write, "])"["[(".index(first)], depth)
    elif first == "{":
        yield from _read_items(reading, write, "}", depth)
    else:
        write((yield from read_unquoted(reading)))


def read_unquoted(reading: Reading) -> Steps[str]:
    """A number, or a name for a value, as JSON."""
    word = yield from reading.matching(_SCALAR, MAX_SCALAR_CHARS)
    if (yield from reading.peek()) == "":
        yield from reading.more()
    value = as_json(word)
    if value is None:
        raise Malformed("a value in a call is neither in quotes nor a number")
    return value


def _read_items(reading: Reading, write: Write, close: str, depth: int) -> Steps[None]:
    yield from reading.require("{" if close == "}" else "[" if close == "]" else "(")
    opening, end = ("{", "}") if close == "}" else ("[", "]")
    write(opening)
    yield from reading.space()
    is_first = True
    while not (yield from reading.next_is(close)):
        if not is_first:
            write(", ")
        is_first = False
        if close == "}":
            yield from _read_item_key(reading, write)
        yield from read_value(reading, write, depth + 1)
        if (yield from reading.item_end(close)):
            break
    write(end)


def _read_item_key(reading: Reading, write: Write) -> Steps[None]:
    if (yield from reading.peek()) not in ("'", '"'):
        yield from reading.require('"')
    yield from _read_string(reading, write)
    yield from reading.space()
    yield from reading.require(":")
    yield from reading.space()
    write(": ")


def _read_string(reading: Reading, write: Write) -> Steps[None]:
    quote = yield from reading.require('"', "'")
    write('"')
    while (yield from reading.until(quote, "\\", write=lambda text: write(quoted(text)[1:-1]))) != quote:
        yield from _read_escape(reading, write)
    write('"')


def _read_escape(reading: Reading, write: Write) -> Steps[None]:
    sign = yield from reading.char()
    if sign not in _CODES:
        # As in Python, what is no escape sequence is a backslash.
        write(quoted(_ESCAPES.get(sign, "\\" + sign))[1:-1])
        return
    digits = ""
    for _ in range(_CODES[sign]):
        digits += yield from reading.char()
    code = int(digits, 16) if _HEX.fullmatch(digits) else -1
    if not 0 <= code <= sys.maxunicode:
        raise Malformed("a string in a call has an escape sequence that is none")
    # Halves of characters go as they are, the other half may follow.
    write(f"\\u{code:04x}" if 0xD800 <= code < 0xE000 else quoted(chr(code))[1:-1])
