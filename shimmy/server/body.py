"""Reads a request's body whole, within a size and a time, before anything looks at it.

Hypercorn has no body limit, and a body that nobody reads blocks its connection for good.
"""

import asyncio
from contextlib import suppress

from starlette.types import Message, Receive, Scope

from shimmy.core.errors import RequestError, RequestTimeout, TooLarge
from shimmy.server.streaming import ClientGone

_LINGER_SECONDS = 2.0
_GRACE_SECONDS = 0.02
_GRACE_BYTES = 64 << 10


class Body:
    """One request's body; after `read` it is what `replay` gives to the route. Without that `replay` gives it as it
    comes, however long it is."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._data: bytes | None = None
        self.ended = False

    async def read(self, scope: Scope, seconds: float) -> None:
        """Raises `TooLarge`, `RequestTimeout`, or `ClientGone`."""
        if _declared_bytes(scope) > self._max_bytes:
            raise self._too_large()
        data = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while not self.ended:
                    data += await self._next()
                    if len(data) > self._max_bytes:
                        raise self._too_large()
        except TimeoutError:
            raise RequestTimeout(f"the request's body did not arrive within {seconds:g} s") from None
        self._data = bytes(data)

    async def replay(self) -> Message:
        """Receive for the route: the body in one message, then what the server says."""
        if self._data is None:
            message = await self._receive()
            self.ended = not message.get("more_body", False)
            return message
        data, self._data = self._data, None
        return {"type": "http.request", "body": data, "more_body": False}

    async def settle(self) -> None:
        """Take what is there already, if that is little: then a connection need not end with a refusal."""
        num_bytes = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_SECONDS):
                while not self.ended and num_bytes <= _GRACE_BYTES:
                    num_bytes += len(await self._next())

    async def discard(self) -> None:
        """Take what the client still sends, for a moment, so that it reads the answer and not a reset."""
        try:
            async with asyncio.timeout(_LINGER_SECONDS):
                while not self.ended:
                    await self._next()
        except (TimeoutError, ClientGone):
            pass

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self.ended = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the request's body is over the limit of {self._max_bytes} bytes")


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            if not value.isdigit():
                raise RequestError("the content-length header is no number")
            return int(value)
    return 0
