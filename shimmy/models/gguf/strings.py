"""Steps over arrays of strings. A vocabulary and its merges are most of a header, up to 800,000 strings that nobody
here needs, so runs of short ones are matched in C: the regex spells out the 8-byte length before each."""

import re
from functools import cache
from struct import Struct

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.cursor import Cursor

_U64 = Struct("<Q")
_RUN = 64
_SHORT = range(48)


def skip_strings(cursor: Cursor, count: int, limit: int) -> None:
    """Steps over `count` strings of at most `limit` bytes each."""
    while count:
        position, passed = _walk(cursor.buffer, cursor.position, count)
        cursor.position = position
        count -= passed
        if count:
            _skip_one(cursor, limit)
            count -= 1


def _skip_one(cursor: Cursor, limit: int) -> None:
    (length,) = cursor.unpack(_U64)
    if length > limit:
        raise ModelInvalid(f"a string at byte {cursor.offset} is {length} bytes long, the limit is {limit}")
    cursor.skip(length)


def _walk(buffer: bytes, position: int, count: int) -> tuple[int, int]:
    """(new position, strings passed): as far as whole strings lie in the buffer, at most `count`."""
    match = _short_strings().match
    passed = 0
    while passed < count:
        step = min(_RUN, count - passed)
        run = match(buffer, position) if step == _RUN else None
        if run:
            position, walked = run.end(), step
        else:
            position, walked = _walk_singly(buffer, position, step)
        passed += walked
        if walked < step:
            break
    return position, passed


def _walk_singly(buffer: bytes, position: int, count: int) -> tuple[int, int]:
    """The plain twin of the regex, for any length."""
    last = len(buffer) - _U64.size
    for passed in range(count):
        if position > last:
            return position, passed
        following = position + _U64.size + _U64.unpack_from(buffer, position)[0]
        if following > len(buffer):
            return position, passed
        position = following
    return position, count


@cache
def _short_strings() -> re.Pattern[bytes]:
    """A run of `_RUN` strings whose lengths are all in `_SHORT`; possessive, so that nothing is kept to go back to."""
    one = b"|".join(re.escape(_U64.pack(length)) + b".{%d}" % length for length in _SHORT)
    return re.compile(b"(?s:(?:%s){%d}+)" % (one, _RUN))
