"""From the bytes of a GGUF file, version 2 or 3, to a `Header`."""

from struct import Struct
from typing import BinaryIO

import msgspec

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.cursor import Cursor
from shimmy.models.gguf.files import regular_file
from shimmy.models.gguf.metadata import Metadata, read_metadata
from shimmy.models.gguf.tensors import Tensor, check_extents, read_tensors
from shimmy.models.gguf.vocabulary import check_vocabulary

MAX_ALIGNMENT = 1 << 20
_DEFAULT_ALIGNMENT = 32
_START = Struct("<4sIQQ")


class Header(msgspec.Struct, frozen=True):
    """What a header says: every tensor lies inside the file and the vocabulary's arrays agree with each other."""

    version: int
    metadata: Metadata
    tensors: list[Tensor]
    data_offset: int
    file_bytes: int

    def integer(self, key: str) -> int | None:
        """The value, or None where it is absent or of another kind."""
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    @property
    def architecture(self) -> str | None:
        return self.text("general.architecture")

    @property
    def num_parameters(self) -> int:
        return sum(tensor.num_elements for tensor in self.tensors)


def read_header(path: str) -> Header:
    """The checked header of the file. Raises `ModelInvalid`; its cause is the OSError when the file cannot be read."""
    with regular_file(path) as (file, file_bytes):
        return _parse(file, file_bytes)


def _parse(file: BinaryIO, file_bytes: int) -> Header:
    cursor = Cursor(file, file_bytes)
    version, num_tensors, num_keys = _read_start(cursor)
    metadata = read_metadata(cursor, num_keys)
    alignment = _alignment(metadata)
    tensors = read_tensors(cursor, num_tensors, alignment)
    data_offset = -(-cursor.offset // alignment) * alignment
    check_extents(tensors, data_offset, file_bytes)
    check_vocabulary(metadata, file, file_bytes)
    return Header(version, metadata, tensors, data_offset, file_bytes)


def _read_start(cursor: Cursor) -> tuple[int, int, int]:
    """(version, number of tensors, number of keys)"""
    magic, version, num_tensors, num_keys = cursor.unpack(_START)
    if magic != b"GGUF":
        raise ModelInvalid(f"not a GGUF file: it starts with {magic!r}")
    if version & 0xFFFF == 0:
        raise ModelInvalid("a big-endian GGUF file, which is not supported")
    if version not in (2, 3):
        raise ModelInvalid(f"GGUF version {version} is not supported, only 2 and 3")
    return version, num_tensors, num_keys


def _alignment(metadata: Metadata) -> int:
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or not 1 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise ModelInvalid(f"general.alignment is {alignment!r}, not a power of two up to {MAX_ALIGNMENT}")
    return alignment
