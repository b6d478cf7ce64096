"""Messages within a body, however it is cut into pieces."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RequestError, ShimmyError, TooLarge, Unimplemented
from shimmy.protocols.grpc.framing import Unframer, framed

LIMIT = 1000


def zipped(message: bytes) -> bytes:
    content = gzip.compress(message, mtime=0)
    return b"\1" + len(content).to_bytes(4, "big") + content


def read(*pieces: bytes, encoding: str = "identity") -> list[bytes]:
    messages = Unframer(LIMIT, encoding)
    found = [message for piece in pieces for message in messages.feed(piece)]
    messages.finish()
    return found


@given(st.lists(st.binary(max_size=20), max_size=5), st.integers(1, 30))
def test_pieces_make_no_difference(sent: list[bytes], size: int) -> None:
    body = b"".join(map(framed, sent))
    assert read(*(body[at : at + size] for at in range(0, len(body), size))) == sent


def test_gzip_is_taken_where_it_was_announced() -> None:
    assert read(zipped(b"one") + framed(b"two"), encoding="gzip") == [b"one", b"two"]
    assert read(zipped(bytes(LIMIT)), encoding="gzip") == [bytes(LIMIT)]


@pytest.mark.parametrize(
    ("body", "encoding", "error", "told"),
    [
        (framed(b"abc")[:-1], "identity", RequestError, "in the middle of a message"),
        (framed(b"abc")[:3], "identity", RequestError, "in the middle of a message"),
        (b"\0" + (LIMIT + 1).to_bytes(4, "big"), "identity", TooLarge, "over the limit of 1000 bytes"),
        (zipped(bytes(LIMIT + 1)), "gzip", TooLarge, "over the limit of 1000 bytes"),
        (zipped(bytes(1 << 20)), "gzip", TooLarge, "over the limit of 1000 bytes"),
        (zipped(b"abc"), "identity", RequestError, "does not say how"),
        (b"\2\0\0\0\1x", "gzip", RequestError, "does not say how"),
        (b"\1\0\0\0\3abc", "gzip", RequestError, "not valid gzip"),
        (b"\1\0\0\0\x14" + gzip.compress(b"abcdefgh", mtime=0)[:20], "gzip", RequestError, "it ends too early"),
        (b"\1\0\0\0\x0b" + zlib.compress(b"abc"), "gzip", RequestError, "not valid gzip"),
        (b"", "br", Unimplemented, "grpc-encoding 'br'"),
    ],
)
def test_what_is_refused(body: bytes, encoding: str, error: type[ShimmyError], told: str) -> None:
    with pytest.raises(error, match=told):
        read(body, encoding=encoding)
