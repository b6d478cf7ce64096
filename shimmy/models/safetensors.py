"""Reads the header of a SafeTensors file and trusts nothing in it: sizes, offsets and shapes have to agree with each
other and with the file. Knows the format, not what the tensors are for. Everything wrong is a `ModelInvalid`.

Format: https://github.com/huggingface/safetensors#format
"""

from math import prod
from typing import Any, BinaryIO

import msgspec

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.files import regular_file

# 65,536 names and places; the largest real ones, of mixtures of experts, have a tenth of that in one file.
MAX_HEADER_BYTES = 16 << 20
MAX_TENSORS = 1 << 16
MAX_NAME_CHARACTERS = 512
MAX_DIMENSIONS = 8
# The format's own limit is what 64 bits hold.
_MAX_OFFSET = 1 << 62
_LENGTH_BYTES = 8

ELEMENT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1, "C64": 8}
ELEMENT_BYTES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}


class Tensor(msgspec.Struct, frozen=True, gc=False):
    """`shape` as stored, slowest dimension first; `offset` in bytes from the start of the file."""

    name: str
    type: str
    shape: tuple[int, ...]
    offset: int
    size_bytes: int

    @property
    def num_elements(self) -> int:
        return self.size_bytes // ELEMENT_BYTES[self.type]


def read_tensors(path: str) -> list[Tensor]:
    """In the order of their data, which fills the file to its end. Raises `ModelInvalid`; its cause is the OSError when
    the file cannot be read."""
    with regular_file(path) as (file, file_bytes):
        header, start = _header(file, file_bytes)
        tensors = [_tensor(name, said, start) for name, said in header.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    _check_extents(tensors, start, file_bytes)
    return tensors


def _header(file: BinaryIO, file_bytes: int) -> tuple[dict[str, Any], int]:
    """The header, and where in the file the data begins."""
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    start = _LENGTH_BYTES + length
    if file_bytes < _LENGTH_BYTES or start > file_bytes:
        raise ModelInvalid(f"truncated, or no SafeTensors file: the header ends at byte {start} of {file_bytes}")
    if length > MAX_HEADER_BYTES:
        raise ModelInvalid(f"the header is {length} bytes long, the limit is {MAX_HEADER_BYTES}")
    data = file.read(length)
    if len(data) < length:
        raise ModelInvalid("the file became shorter while it was read")
    if not data.startswith(b"{"):
        raise ModelInvalid(f"no SafeTensors file: its header starts with {data[:4]!r}")
    return _parsed(data), start


def _parsed(data: bytes) -> dict[str, Any]:
    import json

    num_objects = 0

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """msgspec would take the last of several values of a key, and others take the first."""
        nonlocal num_objects
        num_objects += 1
        # At once, because each of them takes ten times the memory that it has bytes.
        if num_objects > MAX_TENSORS:
            raise ModelInvalid(f"the header has more than {MAX_TENSORS} tensors")
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ModelInvalid("a key stands there twice in the header")
        return found

    try:
        header: dict[str, Any] = json.loads(data.decode(), object_pairs_hook=distinct)
    except RecursionError:
        raise ModelInvalid("the header is nested too deeply") from None
    except ValueError as error:
        raise ModelInvalid(f"the header is no JSON: {str(error)[:200]}") from error
    return header


def _tensor(name: str, said: Any, start: int) -> Tensor:
    if not 0 < len(name) <= MAX_NAME_CHARACTERS or not name.isprintable():
        raise ModelInvalid(f"a tensor is called {name[:80]!r}")
    kind, shape, extent = _fields(said)
    if kind not in ELEMENT_BYTES:
        raise ModelInvalid(f"tensor {name} has the unknown type {kind!r:.80}")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS:
        raise ModelInvalid(f"tensor {name} has the shape {shape!r:.80}")
    if not _are_sizes(extent) or len(extent) != 2:
        raise ModelInvalid(f"tensor {name} lies at {extent!r:.80}")
    begin, end = extent
    size_bytes = prod(shape) * ELEMENT_BYTES[kind]
    if end - begin != size_bytes:
        raise ModelInvalid(f"tensor {name} of {size_bytes} bytes lies at {extent}")
    return Tensor(name, kind, tuple(shape), start + begin, size_bytes)


def _fields(said: Any) -> tuple[Any, Any, Any]:
    if not isinstance(said, dict):
        return None, None, None
    kind = said.get("dtype")
    return kind if isinstance(kind, str) else None, said.get("shape"), said.get("data_offsets")


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < _MAX_OFFSET for value in values)


def _check_extents(tensors: list[Tensor], start: int, file_bytes: int) -> None:
    """As the format demands: one behind the other without holes, so that nothing overlaps and nothing is hidden."""
    end = start
    for tensor in tensors:
        if tensor.offset != end:
            raise ModelInvalid(f"tensor {tensor.name} lies at byte {tensor.offset}, the one before ends at {end}")
        end += tensor.size_bytes
    if end != file_bytes:
        raise ModelInvalid(f"truncated, or more than a model: the tensors end at byte {end}, the file has {file_bytes}")
