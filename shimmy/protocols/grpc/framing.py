"""Messages within a body: each has 5 bytes before it, a flag for compression and its length (gRPC over HTTP/2,
"Length-Prefixed-Message"). What is sent is not compressed."""

import struct
import zlib
from collections.abc import Iterator

from shimmy.core.errors import RequestError, TooLarge, Unimplemented

ACCEPTED = b"identity,gzip"
_PREFIX = struct.Struct(">BI")
_GZIP = 16 + zlib.MAX_WBITS


def framed(message: bytes) -> bytes:
    return _PREFIX.pack(0, len(message)) + message


class Unframer:
    """Takes a body piece by piece and gives its messages, none of them longer than `max_bytes`."""

    def __init__(self, max_bytes: int, encoding: str = "identity") -> None:
        """`encoding` is what the header `grpc-encoding` says. Raises `Unimplemented` for one that is not known."""
        if encoding not in ACCEPTED.decode().split(","):
            raise Unimplemented(f"grpc-encoding {encoding[:40]!r} is not known here", param="grpc-encoding")
        self._max_bytes = max_bytes
        self._encoding = encoding
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The messages that are complete now. Raises `TooLarge` once the length is known, or `RequestError`."""
        self._buffer += data
        while len(self._buffer) >= _PREFIX.size:
            flag, length = _PREFIX.unpack_from(self._buffer)
            if length > self._max_bytes:
                raise self._too_large()
            end = _PREFIX.size + length
            if len(self._buffer) < end:
                return
            message = bytes(self._buffer[_PREFIX.size : end])
            del self._buffer[:end]
            yield self._plain(flag, message)

    def finish(self) -> None:
        """Raises `RequestError` when the body has ended within a message."""
        if self._buffer:
            raise RequestError("the call ends in the middle of a message")

    def _plain(self, flag: int, message: bytes) -> bytes:
        if flag == 0:
            return message
        if flag != 1 or self._encoding == "identity":
            raise RequestError("a message is flagged as compressed, and grpc-encoding does not say how")
        unzip = zlib.decompressobj(_GZIP)
        try:
            plain = unzip.decompress(message, self._max_bytes + 1)
        except zlib.error as error:
            raise RequestError(f"a message is not valid gzip: {error}") from None
        if len(plain) > self._max_bytes:
            raise self._too_large()
        if not unzip.eof:
            raise RequestError("a message is not valid gzip: it ends too early")
        return plain

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the message is over the limit of {self._max_bytes} bytes")
