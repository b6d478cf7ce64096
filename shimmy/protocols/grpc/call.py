"""One call: its headers, its messages, its deadline, and the one status that it ends with."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from shimmy.core.errors import DeadlineExceeded, Draining, RequestError, ShimmyError, Unimplemented
from shimmy.protocols.grpc.framing import ACCEPTED, Unframer, framed
from shimmy.protocols.grpc.methods import Method
from shimmy.protocols.grpc.schema import decode, encode
from shimmy.protocols.grpc.services import Services
from shimmy.protocols.grpc.status import SUCCESS, Header, trailers
from shimmy.server.streaming import ClientGone, hand_on, until_disconnect

_TIMEOUT = re.compile(rb"(\d{1,8})([HMSmun])", re.ASCII)
_UNIT_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_FORMATS = (b"", b"+proto")
_HEADERS: list[Header] = [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", ACCEPTED)]


class Call:
    """`run` answers it, `fail` ends it with an error instead; one of them always sends headers, body and trailers."""

    def __init__(self, services: Services, scope: Scope, send: Send, max_bytes: int) -> None:
        """Raises `RequestError` for what cannot be answered as a call, since it could not have trailers."""
        self._headers = dict(scope["headers"])
        if scope["http_version"] != "2" or self._headers.get(b"te") != b"trailers":
            raise RequestError("a gRPC call needs HTTP/2 and the header 'te: trailers'")
        self._services = services
        self._scope = scope
        self._send = send
        self._max_bytes = max_bytes
        self._began_at = asyncio.get_running_loop().time()
        self._started = False

    @property
    def method(self) -> Method:
        """Raises `Unimplemented`. The body is to be read whole but for a conversation, of which the client may
        await an answer before it goes on."""
        path = self._scope["path"]
        method = self._services.find(path)
        if method is None or self._scope["method"] != "POST":
            raise Unimplemented(f"there is no method {path[:200]}")
        content_type, _, _ = self._headers[b"content-type"].partition(b";")
        if content_type.strip().removeprefix(b"application/grpc") not in _FORMATS:
            raise Unimplemented("messages are in protobuf only: application/grpc or application/grpc+proto")
        return method

    @property
    def needed_scope(self) -> str:
        """What a key must have; for a method that there is not it makes no difference."""
        method = self._services.find(self._scope["path"])
        return method.needed_scope if method else "infer"

    async def run(self, method: Method, receive: Receive) -> None:
        """`receive` gives the whole body, or, of a conversation, what there is of it. Raises what went wrong, or
        `ClientGone`."""
        seconds = self._timeout_seconds()
        deadline = None if seconds is None else self._began_at + seconds
        try:
            async with asyncio.timeout_at(deadline) as timer:
                await self._answer(method, receive)
        except TimeoutError:
            if not timer.expired():
                raise
            raise DeadlineExceeded(f"the call was not finished within its deadline of {seconds:g} s") from None
        await self._finish(SUCCESS)

    async def fail(self, error: ShimmyError, discard: Callable[[], Awaitable[None]]) -> None:
        """`discard` takes what the client still sends for a moment: Hypercorn gives up a connection on which more comes
        for a stream that is over. A server that leaves does not wait for that."""
        await self._start()
        if not isinstance(error, Draining):
            await discard()
        await self._finish(trailers(error))

    async def _answer(self, method: Method, receive: Receive) -> None:
        messages = Unframer(self._max_bytes, self._headers.get(b"grpc-encoding", b"identity").decode("latin-1"))
        if method.conversation:
            return await self._converse(method, messages, receive)
        body = (await receive())["body"]
        found = list(messages.feed(body))
        messages.finish()
        if len(found) != 1:
            raise Unimplemented(f"this method takes one message, not {len(found)}")
        await until_disconnect(receive, self._reply(method, found[0]))

    async def _converse(self, method: Method, messages: Unframer, receive: Receive) -> None:
        await self._start()
        more = True
        while more:
            received = await self._services.unless_draining(receive)
            if received["type"] == "http.disconnect":
                raise ClientGone
            for message in messages.feed(received.get("body", b"")):
                await self._reply(method, message)
            more = received.get("more_body", False)
        messages.finish()

    async def _reply(self, method: Method, message: bytes) -> None:
        request: Any = decode(method.request, message)
        await hand_on(method.answer(request, self._scope), lambda answer: self._write(framed(_encoded(answer))))

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS, "trailers": True})

    async def _write(self, data: bytes) -> None:
        await self._start()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def _finish(self, ending: list[Header]) -> None:
        """Without a body Hypercorn sends trailers that some clients take for none, so there is always an empty one."""
        await self._start()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        await self._send({"type": "http.response.trailers", "headers": ending, "more_trailers": False})

    def _timeout_seconds(self) -> float | None:
        given = self._headers.get(b"grpc-timeout")
        if given is None:
            return None
        match = _TIMEOUT.fullmatch(given)
        if match is None:
            raise RequestError(f"grpc-timeout: {given[:40]!r} is no time", param="grpc-timeout")
        return int(match[1]) * _UNIT_SECONDS[match[2]]


def _encoded(answer: msgspec.Struct | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else encode(answer)
