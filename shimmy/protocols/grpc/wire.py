"""The protobuf wire format (protobuf.dev/programming-guides/encoding): tags, varints, lengths. Knows no message."""

import struct
from collections.abc import Callable, Iterator

VARINT, FIXED64, LENGTH, START_GROUP, END_GROUP, FIXED32 = range(6)

MAX_DEPTH = 100  # of messages within messages, and of groups: that of Google's own parsers
_MAX_VARINT_BYTES = 10
_MAX_TAG_BYTES = 5
_MASK = (1 << 64) - 1
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}

Raw = int | bytes  # a varint as an unsigned number of 64 bits, all else as its bytes


class Malformed(ValueError):
    """Bytes that are no message; `path` leads to the field, from the outside in."""

    def __init__(self, what: str, *path: str) -> None:
        super().__init__(what)
        self.what = what
        self.path = path

    def within(self, name: str) -> "Malformed":
        return Malformed(self.what, name, *self.path)


def records(data: bytes, depth: int, count: Callable[[], None]) -> Iterator[tuple[int, int, Raw]]:
    """The field number, wire type and value of each record; groups, which proto3 has not, are passed over.

    `depth` is how many messages `data` is within; `count` is called for each record, those in groups included. Raises
    `Malformed`.
    """
    at = 0
    while at < len(data):
        count()
        number, wire_type, at = _tag(data, at)
        if wire_type == START_GROUP:
            at = _skip_group(data, at, number, depth + 1, count)
        elif wire_type == END_GROUP:
            raise Malformed("a group ends that has not begun")
        else:
            value, at = _value(data, at, wire_type)
            yield number, wire_type, value


def varints(data: bytes) -> Iterator[int]:
    """The elements of a packed field of varints."""
    at = 0
    while at < len(data):
        value, at = _varint(data, at, _MAX_VARINT_BYTES)
        yield value


def varint(value: int) -> bytes:
    """`value` is unsigned, or negative and stands for its two's complement of 64 bits."""
    value &= _MASK
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def record(number: int, wire_type: int, value: Raw) -> bytes:
    tag = varint(number << 3 | wire_type)
    if isinstance(value, int):
        return tag + varint(value)
    return tag + varint(len(value)) + value if wire_type == LENGTH else tag + value


def pack_float(value: float) -> bytes:
    """What is too large for 32 bits becomes infinite."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))


def unpack_float(data: bytes) -> float:
    value: float = struct.unpack("<f", data)[0]
    return value


def _tag(data: bytes, at: int) -> tuple[int, int, int]:
    tag, at = _varint(data, at, _MAX_TAG_BYTES)
    if tag >> 32 or tag < 8:
        raise Malformed("a field has no valid number")
    return tag >> 3, tag & 7, at


def _value(data: bytes, at: int, wire_type: int) -> tuple[Raw, int]:
    if wire_type == VARINT:
        return _varint(data, at, _MAX_VARINT_BYTES)
    if wire_type == LENGTH:
        length, at = _varint(data, at, _MAX_VARINT_BYTES)
    elif wire_type in _FIXED_BYTES:
        length = _FIXED_BYTES[wire_type]
    else:
        raise Malformed(f"there is no wire type {wire_type}")
    if length > len(data) - at:
        raise Malformed("it ends in the middle of a field")
    return data[at : at + length], at + length


def _varint(data: bytes, at: int, max_bytes: int) -> tuple[int, int]:
    """And where it ends. What is over 64 bits is cut off, as Google's own parsers do."""
    value = 0
    for shift, byte in enumerate(data[at : at + max_bytes]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value & _MASK, at + shift + 1
    raise Malformed("it ends in the middle of a number" if len(data) - at < max_bytes else "a number is too long")


def _skip_group(data: bytes, at: int, number: int, depth: int, count: Callable[[], None]) -> int:
    """Where the group that has begun ends. A loop, since it is the client who says how deep it goes."""
    open_groups = [number]
    while open_groups:
        if depth + len(open_groups) > MAX_DEPTH:
            raise Malformed("it is nested too deeply")
        count()
        number, wire_type, at = _tag(data, at)
        if wire_type == START_GROUP:
            open_groups.append(number)
        elif wire_type == END_GROUP:
            if open_groups.pop() != number:
                raise Malformed("a group ends that has not begun")
        else:
            _, at = _value(data, at, wire_type)
    return at
