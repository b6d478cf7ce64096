"""Answers that go on and on."""

import io
import socket
from http.client import HTTPResponse
from typing import Any, cast

import pytest

from shimmy.core.errors import PullFailed
from shimmy.store.hosts import parse_url
from shimmy.store.http import MAX_DOCUMENT_BYTES, Answer, Broken


class Endless(io.RawIOBase):
    """An answer's head, and then the same for ever."""

    def __init__(self, head: bytes, then: bytes) -> None:
        self._left = head
        self._then = then
        self.num_read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = (self._left or self._then)[: len(buffer)]
        self._left = self._left[len(piece) :]
        buffer[: len(piece)] = piece
        self.num_read += len(piece)
        assert self.num_read < 2 * MAX_DOCUMENT_BYTES, "read more than was allowed"
        return len(piece)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)


@pytest.mark.parametrize("head", ["Content-Type: x\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n-1\r\n"])
def test_no_more_is_read_than_a_document_may_have(head: str) -> None:
    """A chunk of -1 bytes is one that the standard library reads to the end of the connection."""
    endless = Endless(f"HTTP/1.1 200 OK\r\n{head}".encode(), b"[" * 65536)
    response = HTTPResponse(cast(socket.socket, endless))
    response.begin()
    with pytest.raises((PullFailed, Broken)):
        Answer(parse_url("https://hub/"), response).document()


def test_a_length_of_very_many_digits_is_none_that_came() -> None:
    """The standard library passes it over, as Python makes no number of so many."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {'9' * 5000}\r\n\r\n"
    response = HTTPResponse(cast(socket.socket, Endless(head.encode() + b"[]", b"")))
    response.begin()
    with pytest.raises(Broken, match="closed the connection after 2 of"):
        Answer(parse_url("https://hub/"), response).document()
