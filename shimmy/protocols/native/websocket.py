"""/ws/generate: one request after the other over one connection, each in the form of the original's /api/generate."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from urllib.parse import parse_qs

import msgspec
from starlette.requests import HTTPConnection
from starlette.types import Message, Receive, Scope, Send

from shimmy.core.decoding import decode
from shimmy.core.errors import RequestError, ShimmyError, TooLarge
from shimmy.core.settings import Settings
from shimmy.protocols.native.generate import decoder, generation_of, texts
from shimmy.server.inference import Inference
from shimmy.server.streaming import ClientGone, internal_error, observed
from shimmy.server.strictness import check

JSON_PROTOCOL = "shimmy.json"
_DONE = '{"done":true}'


class Conversation:
    """One connection. A token is a text frame of its own, or with `?frames=json`, or the subprotocol "shimmy.json", an
    object. Nothing is pulled from a request while the client takes nothing."""

    def __init__(self, inference: Inference, settings: Settings, scope: Scope, receive: Receive, send: Send) -> None:
        self._inference = inference
        self._settings = settings
        self._scope = scope
        self._receive = receive
        self._send = send
        self._frame: Callable[[str], str] = str
        self._coming: asyncio.Task[Message] | None = None

    async def run(self) -> None:
        """Raises `ClientGone` for a client that takes nothing; returns when it left, or sent nothing for long."""
        await self._accept()
        try:
            while (content := await self._next()) is not None:
                if not await self._answer(content):
                    return
            await self._within({"type": "websocket.close", "code": 1000})
        finally:
            if self._coming is not None:
                self._coming.cancel()
                await asyncio.gather(self._coming, return_exceptions=True)

    async def _accept(self) -> None:
        await self._receive()
        named = JSON_PROTOCOL in self._scope["subprotocols"]
        if named or parse_qs(self._scope["query_string"]).get(b"frames") == [b"json"]:
            self._frame = _as_json
        await self._send({"type": "websocket.accept", "subprotocol": JSON_PROTOCOL if named else None})

    async def _next(self) -> bytes | None:
        """The next request; None when none came in time."""
        done, _ = await asyncio.wait([self._reading()], timeout=self._settings.body_seconds)
        if not done:
            return None
        message = self._taken()
        if message["type"] == "websocket.disconnect":
            raise ClientGone
        return message.get("bytes") or (message.get("text") or "").encode()

    async def _answer(self, content: bytes) -> bool:
        """False when the client left meanwhile."""
        work = asyncio.create_task(self._pump(content))
        try:
            while True:
                await asyncio.wait([work, self._reading()], return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    work.result()
                    return True
                if self._taken()["type"] == "websocket.disconnect":
                    return False
                await self._fail(RequestError("one request at a time: the last one is not answered yet"))
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _pump(self, content: bytes) -> None:
        try:
            if len(content) > self._settings.max_body_bytes:
                raise TooLarge(f"the frame is over the limit of {self._settings.max_body_bytes} bytes")
            body, unknown = decode(decoder, content)
            check(HTTPConnection(self._scope), unknown)
            generation = generation_of(body, self._scope["state"]["tenant"])
            events = observed(self._scope, generation.model, self._inference.generate(generation))
            async with aclosing(texts(events)) as pieces:
                async for text in pieces:
                    if text:
                        await self._write(self._frame(text))
            await self._write(_DONE)
        except ClientGone:
            raise
        except ShimmyError as error:
            await self._fail(error)
        except Exception as error:
            await self._fail(internal_error(error, self._scope["state"]["access"].id))

    async def _fail(self, error: ShimmyError) -> None:
        self._scope["state"]["access"].error = error.code
        await self._write(msgspec.json.encode({"error": error.message, "code": error.code}).decode())

    async def _write(self, text: str) -> None:
        await self._within({"type": "websocket.send", "text": text})

    async def _within(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._settings.stall_seconds):
                await self._send(message)
        except TimeoutError:
            raise ClientGone from None
        # Sending alone lets nobody else have a turn, and would not learn that the client left.
        await asyncio.sleep(0)

    def _reading(self) -> "asyncio.Task[Message]":
        """What comes next, which is not lost when something else happens first."""
        if self._coming is None:
            self._coming = asyncio.ensure_future(self._receive())
        return self._coming

    def _taken(self) -> Message:
        message = self._reading().result()
        self._coming = None
        return message


def _as_json(text: str) -> str:
    return msgspec.json.encode({"token": text}).decode()
