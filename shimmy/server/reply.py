"""The sending half of one exchange: what every answer carries, what an error status tells clients to do, and the end of
a client that takes nothing. What an error's body looks like is its protocol's business.
"""

import asyncio
import math
from collections.abc import Iterator

from starlette.types import Message, Send

from shimmy.core.errors import QueueTimeout, RequestTimeout, ShimmyError
from shimmy.server.access import Access
from shimmy.server.body import Body
from shimmy.server.connection import Connection
from shimmy.server.streaming import ClientGone

# Where an error does not know better.
_RETRY_AFTER_SECONDS = 1
Header = tuple[bytes, bytes]


class Reply:
    """An ASGI `send` that adds `headers` and the request id, notes the status, and cuts a client that takes nothing for
    `stall_seconds`."""

    def __init__(
        self,
        send: Send,
        connection: Connection,
        access: Access,
        stall_seconds: float,
        id_headers: tuple[bytes, ...] = (b"x-request-id",),
    ) -> None:
        """`id_headers` are the names by which the client may look for the request's id."""
        self._send = send
        self._connection = connection
        self._access = access
        self._stall_seconds = stall_seconds
        self._ids = [(name, access.id.encode()) for name in id_headers]
        self.headers: list[Header] = []

    async def __call__(self, message: Message) -> None:
        """Raises `ClientGone` for a client that had to be cut."""
        if message["type"] == "http.response.start":
            self._access.status = message["status"]
            message = {**message, "headers": [*message["headers"], *self.headers, *self._ids]}
        # A timer for each token costs more than encoding it.
        if self._connection.takes(len(message.get("body", b""))):
            return await self._send(message)
        try:
            async with asyncio.timeout(self._stall_seconds):
                await self._send(message)
                await self._connection.drained()
        except TimeoutError:
            await self.abandon()
            raise ClientGone from None

    async def empty(self, headers: list[Header], body: Body) -> None:
        """Answer with nothing but headers."""
        await body.settle()
        await self({"type": "http.response.start", "status": 204, "headers": headers})
        await self({"type": "http.response.body", "body": b"", "more_body": False})

    async def refuse(self, error: ShimmyError, content: bytes, body: Body, http_version: str) -> None:
        """Answer with an error; an answer that has begun already is cut off, lest it pass for a whole one."""
        self._access.error = error.code
        if self._access.status is not None:
            return await self.abandon()
        await body.settle()
        headers = [(b"content-length", str(len(content)).encode()), *_headers(error)]
        if not body.ended and http_version != "2":
            headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": error.status, "headers": headers})
        await self({"type": "http.response.body", "body": content, "more_body": True})
        await body.discard()
        await self({"type": "http.response.body", "body": b"", "more_body": False})
        if not body.ended:
            await self._connection.refuse_rest()

    async def abandon(self) -> None:
        """End the exchange as it is."""
        await self._connection.cut()


def _headers(error: ShimmyError) -> Iterator[Header]:
    yield b"content-type", b"application/json"
    if error.status == 401:
        yield b"www-authenticate", b"Bearer"
    if allow := error.details.get("allow"):
        yield b"allow", allow.encode()
    passes = error.status == 503 and not error.details.get("is_lasting", False)
    seconds = error.details.get("retry_after_seconds", _RETRY_AFTER_SECONDS if passes else None)
    if seconds is not None:
        yield b"retry-after", str(math.ceil(seconds)).encode()
        yield b"retry-after-ms", str(math.ceil(seconds * 1000)).encode()
    # The OpenAI and Anthropic SDKs repeat every 408, 429 and 5xx twice unless told not to (openai/_base_client.py).
    if passes or error.status == 429 or isinstance(error, RequestTimeout):
        yield b"x-should-retry", b"true"
    elif error.status >= 500 or isinstance(error, QueueTimeout):
        yield b"x-should-retry", b"false"
