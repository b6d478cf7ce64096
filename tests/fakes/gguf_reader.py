"""Reads whole GGUF files, arrays and tensor data included. For files of tests only: it checks nothing, and it shares no
code with what writes them or with the product's reader of headers."""

import struct
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

LAYOUTS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
ELEMENT_BYTES = {0: 4, 1: 2, 30: 2}
NAMES = {0: "F32", 1: "F16", 30: "BF16"}


@dataclass
class ReadTensor:
    """`shape` fastest dimension first, as stored."""

    shape: tuple[int, ...]
    type: str
    data: bytes

    def floats(self) -> list[float]:
        layout = {"F32": "f", "F16": "e"}[self.type]
        return [each for (each,) in struct.iter_unpack(f"<{layout}", self.data)]


@dataclass
class ReadFile:
    metadata: dict[str, Any]
    tensors: dict[str, ReadTensor]


def read(path: Path) -> ReadFile:
    source = BytesIO(path.read_bytes())
    magic, version, num_tensors, num_keys = struct.unpack("<4sIQQ", source.read(24))
    assert (magic, version) == (b"GGUF", 3)
    metadata = dict((_text(source), _value(source, _number(source, "I"))) for _ in range(num_keys))
    places = {}
    for _ in range(num_tensors):
        name = _text(source)
        shape = tuple(_number(source, "Q") for _ in range(_number(source, "I")))
        places[name] = shape, _number(source, "I"), _number(source, "Q")
    alignment = metadata.get("general.alignment", 32)
    start = -(-source.tell() // alignment) * alignment
    tensors = {}
    for name, (shape, code, offset) in places.items():
        size = ELEMENT_BYTES[code]
        for extent in shape:
            size *= extent
        source.seek(start + offset)
        tensors[name] = ReadTensor(shape, NAMES[code], source.read(size))
        assert len(tensors[name].data) == size
    return ReadFile(metadata, tensors)


def _number(source: BytesIO, layout: str) -> Any:
    return struct.unpack(f"<{layout}", source.read(struct.calcsize(f"<{layout}")))[0]


def _text(source: BytesIO) -> str:
    return source.read(_number(source, "Q")).decode()


def _value(source: BytesIO, code: int) -> Any:
    if code == 8:
        return _text(source)
    if code == 9:
        element, length = _number(source, "I"), _number(source, "Q")
        return [_value(source, element) for _ in range(length)]
    return _number(source, LAYOUTS[code])
