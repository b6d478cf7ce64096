"""The keys and values of a header. Scalars and texts are kept; arrays are stepped over and stand as an `Array`."""

from struct import Struct

import msgspec

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.cursor import Cursor
from shimmy.models.gguf.strings import skip_strings

MAX_KEYS = 1 << 16
MAX_KEY_BYTES = (1 << 16) - 1
MAX_ARRAY_LENGTH = 1 << 22
MAX_STRING_BYTES = 64 << 20
MAX_KEPT_STRING_BYTES = 1 << 20

_SCALARS = {
    0: ("u8", Struct("<B")),
    1: ("i8", Struct("<b")),
    2: ("u16", Struct("<H")),
    3: ("i16", Struct("<h")),
    4: ("u32", Struct("<I")),
    5: ("i32", Struct("<i")),
    6: ("f32", Struct("<f")),
    7: ("bool", Struct("<?")),
    10: ("u64", Struct("<Q")),
    11: ("i64", Struct("<q")),
    12: ("f64", Struct("<d")),
}
_STRING = 8
_ARRAY = 9
_TYPE = Struct("<I")
_LENGTH = Struct("<Q")
_ARRAY_START = Struct("<IQ")


class Array(msgspec.Struct, frozen=True):
    """An array that was stepped over: the type of its elements ("str", "f32" ...), how many, and where in the file."""

    element: str
    length: int
    offset: int


Value = int | float | bool | str | Array
Metadata = dict[str, Value]


def read_metadata(cursor: Cursor, num_keys: int) -> Metadata:
    """A text over 1 MiB (a whole tokenizer.json, say) is not kept either: it stands as the array of its bytes."""
    if num_keys > MAX_KEYS:
        raise ModelInvalid(f"the header claims {num_keys} keys, the limit is {MAX_KEYS}")
    metadata: Metadata = {}
    for _ in range(num_keys):
        key = cursor.text("a key", MAX_KEY_BYTES)
        if not key:
            raise ModelInvalid("a key has no name")
        if key in metadata:
            raise ModelInvalid(f"the key {_shown(key)} stands there twice")
        metadata[key] = _read_value(cursor, key)
    return metadata


def _read_value(cursor: Cursor, key: str) -> Value:
    (code,) = cursor.unpack(_TYPE)
    if code == _STRING:
        return _read_string(cursor, key)
    if code == _ARRAY:
        return _skip_array(cursor, key)
    if code not in _SCALARS:
        raise ModelInvalid(f"the key {_shown(key)} has the unknown type {code}")
    value: int | float | bool = cursor.unpack(_SCALARS[code][1])[0]
    return value


def _read_string(cursor: Cursor, key: str) -> str | Array:
    (length,) = cursor.peek(_LENGTH)
    if length <= MAX_KEPT_STRING_BYTES:
        return cursor.text(key, MAX_KEPT_STRING_BYTES)
    start = cursor.offset + _LENGTH.size
    skip_strings(cursor, 1, MAX_STRING_BYTES)
    return Array("u8", length, start)


def _skip_array(cursor: Cursor, key: str) -> Array:
    code, length = cursor.unpack(_ARRAY_START)
    if length > MAX_ARRAY_LENGTH:
        raise ModelInvalid(f"the array {_shown(key)} claims {length} elements, the limit is {MAX_ARRAY_LENGTH}")
    start = cursor.offset
    if code == _STRING:
        skip_strings(cursor, length, MAX_STRING_BYTES)
        return Array("str", length, start)
    if code not in _SCALARS:
        raise ModelInvalid(f"the array {_shown(key)} has elements of the unsupported type {code}")
    element, layout = _SCALARS[code]
    cursor.skip(length * layout.size)
    return Array(element, length, start)


def _shown(key: str) -> str:
    return repr(key[:80])
