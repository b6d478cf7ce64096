"""How messages travel between the server and a worker. Knows no message.

A frame is a 4-byte little-endian length and one msgpack message, a tagged Struct.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

MAX_FRAME_BYTES = 64 << 20
_LENGTH_BYTES = 4

_encoder = msgspec.msgpack.Encoder()


class FrameError(Exception):
    """The other side sent bytes that are not a frame."""


def encode(message: msgspec.Struct) -> bytes:
    """One frame, length included."""
    frame = bytearray(_LENGTH_BYTES)
    _encoder.encode_into(message, frame, _LENGTH_BYTES)
    size = len(frame) - _LENGTH_BYTES
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
    frame[:_LENGTH_BYTES] = size.to_bytes(_LENGTH_BYTES, "little")
    return bytes(frame)


class FrameReader:
    """Turns a byte stream, however it is split, back into messages."""

    def __init__(self, messages: Any) -> None:
        """`messages` is the union to decode: `ToWorker` in a worker, `FromWorker` in the server."""
        self.expect(messages)
        self._pending = bytearray()

    def expect(self, messages: Any) -> None:
        """Decode the next message, and those after it, as one of these."""
        self._decoder = msgspec.msgpack.Decoder(messages)

    def feed(self, data: bytes) -> Iterator[Any]:
        """The messages that `data` completes. Raises `FrameError` on anything malformed."""
        pending = self._pending
        pending += data
        start = 0
        try:
            while len(pending) - start >= _LENGTH_BYTES:
                body = start + _LENGTH_BYTES
                size = int.from_bytes(pending[start:body], "little")
                if size > MAX_FRAME_BYTES:
                    raise FrameError(f"frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
                if len(pending) < body + size:
                    break
                frame = bytes(pending[body : body + size])
                start = body + size
                try:
                    message = self._decoder.decode(frame)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    raise FrameError(f"undecodable frame: {error}") from error
                yield message
        finally:
            del pending[:start]
