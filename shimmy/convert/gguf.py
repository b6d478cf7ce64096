"""Writes GGUF, version 3: the header, then the data of each tensor at its place."""

import struct
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO, NamedTuple, TypeAlias

ALIGNMENT = 32
# ggml.h enum ggml_type, and bytes of one element
TYPES = {"F32": (0, 4), "F16": (1, 2), "BF16": (30, 2)}

# An int is written as u32, a negative one as i32, a float as f32; numbers in a list are i32, in an array f32.
Value: TypeAlias = "bool | int | float | str | Sequence[str] | Sequence[int] | array[float]"
Metadata = Mapping[str, Value]

_STRING, _ARRAY = 8, 9
_I32, _F32 = 5, 6


class Entry(NamedTuple):
    """A tensor as the header has it; `shape` slowest dimension first."""

    name: str
    shape: tuple[int, ...]
    type: str

    @property
    def size_bytes(self) -> int:
        size = TYPES[self.type][1]
        for extent in self.shape:
            size *= extent
        return size


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def write_header(sink: BinaryIO, metadata: Metadata, entries: Sequence[Entry]) -> int:
    """Returns its size, to where the data begins."""
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(entries), len(metadata))
    written = sink.write(start)
    for key, value in metadata.items():
        for part in (_string(key), *_value(value)):
            written += sink.write(part)
    offset = 0
    for entry in entries:
        written += sink.write(_tensor(entry, offset))
        offset += padded(entry.size_bytes)
    return written + sink.write(bytes(padded(written) - written))


def _tensor(entry: Entry, offset: int) -> bytes:
    num_dimensions = len(entry.shape)
    shape = struct.pack(f"<I{num_dimensions}Q", num_dimensions, *entry.shape[::-1])
    return _string(entry.name) + shape + struct.pack("<IQ", TYPES[entry.type][0], offset)


def _string(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> Iterator[bytes]:
    match value:
        case bool():
            yield struct.pack("<I?", 7, value)
        case int():
            yield struct.pack("<Ii" if value < 0 else "<II", _I32 if value < 0 else 4, value)
        case float():
            yield struct.pack("<If", _F32, value)
        case str():
            yield struct.pack("<I", _STRING) + _string(value)
        case array():
            yield struct.pack("<IIQ", _ARRAY, _F32, len(value)) + struct.pack(f"<{len(value)}f", *value)
        case _ if value and isinstance(value[0], str):
            yield struct.pack("<IIQ", _ARRAY, _STRING, len(value))
            yield from (_string(str(each)) for each in value)
        case _:
            yield struct.pack("<IIQ", _ARRAY, _I32, len(value)) + struct.pack(f"<{len(value)}i", *value)
