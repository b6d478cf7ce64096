"""A window that moves through the header of a file, and the only place that reads its bytes. Nothing past the end of
the file or of the header limit is asked for, and the window holds one block or the longest single value."""

from struct import Struct
from typing import Any, BinaryIO

from shimmy.core.errors import ModelInvalid

MAX_HEADER_BYTES = 64 << 20  # the largest real ones, 262,144 tokens and their merges, are 16 MiB
_BLOCK_BYTES = 1 << 20

_U64 = Struct("<Q")


class Cursor:
    """Reads forward from `offset`. `buffer[position:]` is what has been read and not yet consumed."""

    def __init__(self, file: BinaryIO, file_bytes: int, offset: int = 0) -> None:
        self.file_bytes = file_bytes
        self.buffer = b""
        self.position = 0
        self._file = file
        self._buffer_offset = offset

    @property
    def offset(self) -> int:
        """Where in the file the next byte lies."""
        return self._buffer_offset + self.position

    def peek(self, layout: Struct) -> tuple[Any, ...]:
        self.require(layout.size)
        return layout.unpack_from(self.buffer, self.position)

    def unpack(self, layout: Struct) -> tuple[Any, ...]:
        values = self.peek(layout)
        self.position += layout.size
        return values

    def take(self, num_bytes: int) -> bytes:
        self.require(num_bytes)
        start = self.position
        self.position += num_bytes
        return self.buffer[start : self.position]

    def text(self, what: str, limit: int) -> str:
        """A string with its length before it; `what` names it in the error when it is over `limit` bytes."""
        (length,) = self.unpack(_U64)
        if length > limit:
            raise ModelInvalid(f"{what} is {length} bytes long, the limit is {limit}")
        return self.take(length).decode("utf-8", "replace")

    def skip(self, num_bytes: int) -> None:
        """Steps over bytes without reading those that are not in the buffer yet."""
        self._check(num_bytes)
        if self.position + num_bytes <= len(self.buffer):
            self.position += num_bytes
        else:
            self._buffer_offset, self.buffer, self.position = self.offset + num_bytes, b"", 0

    def require(self, num_bytes: int) -> None:
        """Makes the buffer hold at least the next `num_bytes`, which the caller has bounded."""
        missing = self.position + num_bytes - len(self.buffer)
        if missing <= 0:
            return
        self._check(num_bytes)
        rest = self.buffer[self.position :]
        self._file.seek(self.offset + len(rest))
        more = self._file.read(max(missing, _BLOCK_BYTES))
        self._buffer_offset, self.buffer, self.position = self.offset, rest + more, 0
        if len(more) < missing:
            raise ModelInvalid("the file became shorter while it was read")

    def _check(self, num_bytes: int) -> None:
        end = self.offset + num_bytes
        if end > self.file_bytes:
            raise ModelInvalid(f"truncated: the header goes on to byte {end}, the file has {self.file_bytes}")
        if end > MAX_HEADER_BYTES:
            raise ModelInvalid(f"the header is longer than {MAX_HEADER_BYTES} bytes")
