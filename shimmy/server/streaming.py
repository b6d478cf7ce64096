"""How long answers travel: the only place that streams, and that watches whether the client is still there.

Knows no wire format: it gets bytes that are ready to send.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.types import Receive, Scope, Send

from shimmy.core.errors import ShimmyError
from shimmy.core.events import Event, Finished, TextDelta
from shimmy.server.access import Access

log = logging.getLogger(__name__)

T = TypeVar("T")

Headers = list[tuple[bytes, bytes]]

PING = b": ping\n\n"
_WRITES_IN_A_ROW = 8
_PIECE_BYTES = 64 << 10
_MOMENT_SECONDS = 0.03
_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


class ClientGone(Exception):
    """The client left before its answer was complete; nobody is there to read an error."""


class EventStream:
    """A `text/event-stream` answer that ends with its source, its client or its first error.

    `source` yields encoded events, any number at a time, and is closed in every case. The status waits for its first
    yield (which may be empty), so that an error before it has a status of its own, but no longer than `ping_seconds`;
    after that, and in every later silence, pings keep the connection alive: comments until `source` has said something,
    then `ping`. Nothing is pulled from `source` while the client takes nothing. `more_headers` is asked when the status
    is sent: a ping may come before what they depend on is known.
    """

    media_type = b"text/event-stream; charset=utf-8"
    ping = PING

    def __init__(
        self,
        source: AsyncGenerator[bytes, None],
        encode_error: Callable[[ShimmyError], bytes],
        ping_seconds: float,
        more_headers: Callable[[], Headers] = list,
        *,
        ping: bytes | None = None,
    ) -> None:
        self._more_headers = more_headers
        self._source = source
        self._encode_error = encode_error
        self._ping_seconds = ping_seconds
        self._next_ping = self.ping
        self._later_ping = self.ping if ping is None else ping
        self._started = False
        self._writing = False
        self._wrote_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._wrote_at = asyncio.get_running_loop().time()
        pump = asyncio.create_task(self._pump(scope, send))
        others = [asyncio.create_task(_disconnected(receive)), asyncio.create_task(self._ping(send))]
        try:
            await asyncio.wait((pump, *others), return_when=asyncio.FIRST_COMPLETED)
            if not pump.done():
                raise ClientGone
            pump.result()
        finally:
            await _stop(pump, *others)

    async def _pump(self, scope: Scope, send: Send) -> None:
        try:
            await hand_on(self._source, lambda data: self._tell(send, data))
        except ClientGone:
            raise
        except Exception as error:
            if not self._started:
                raise
            await self._write(send, self._encode_error(_shown(error, scope)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Send, data: bytes) -> None:
        await self._write(send, data)
        if data:
            self._next_ping = self._later_ping

    async def _ping(self, send: Send) -> None:
        now = asyncio.get_running_loop().time
        while True:
            silent = now() - self._wrote_at
            if self._writing or silent < self._ping_seconds:
                await asyncio.sleep(self._ping_seconds if self._writing else self._ping_seconds - silent)
            else:
                await self._write(send, self._next_ping)

    async def _write(self, send: Send, data: bytes) -> None:
        self._writing = True
        if not self._started:
            self._started = True
            headers = [(b"content-type", self.media_type), *_HEADERS, *self._more_headers()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data, "more_body": True})
        self._writing = False
        self._wrote_at = asyncio.get_running_loop().time()


class LineStream(EventStream):
    """The same as JSON, one value per line. There are no comments, so in a silence only the status is sent."""

    media_type = b"application/x-ndjson"
    ping = b""


class LongAnswer:
    """A whole JSON answer, sent piece by piece: of a slow client more is expected than to take something of it all."""

    def __init__(self, pieces: Sequence[bytes], more_headers: Headers | None = None) -> None:
        self._pieces = pieces
        self._more_headers = more_headers or []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = str(sum(map(len, self._pieces))).encode()
        headers = [(b"content-length", size), (b"content-type", b"application/json"), *self._more_headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        waiting: list[bytes] = []
        num_bytes = 0
        for piece in self._pieces:
            waiting.append(piece)
            num_bytes += len(piece)
            if num_bytes >= _PIECE_BYTES:
                await send({"type": "http.response.body", "body": b"".join(waiting), "more_body": True})
                waiting, num_bytes = [], 0
        await send({"type": "http.response.body", "body": b"".join(waiting), "more_body": False})


async def hand_on(source: AsyncGenerator[T, None], write: Callable[[T], Awaitable[None]]) -> None:
    """Write all that `source` yields, and close it in every case. Nothing is pulled while a write waits."""
    async with aclosing(source):
        num_written = 0
        async for item in source:
            await write(item)
            num_written += 1
            # Hypercorn's send neither raises nor suspends when the client has left, nor does a source that always has
            # something. Every time would be a turn of the loop more for every token.
            if num_written % _WRITES_IN_A_ROW == 0:
                await asyncio.sleep(0)


async def until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns; cancels it and raises `ClientGone` when the client leaves first. That is looked for once the
    work has taken a moment, since most takes less, and looking costs as much as some of it."""
    task, watching = _this_task(), list[asyncio.Task[None]]()
    has_left = is_over = False

    def leave(_: asyncio.Task[None]) -> None:
        nonlocal has_left
        if not is_over:
            has_left = True
            task.cancel()

    def watch() -> None:
        watching.append(asyncio.create_task(_disconnected(receive)))
        watching[0].add_done_callback(leave)

    timer = asyncio.get_running_loop().call_later(_MOMENT_SECONDS, watch)
    try:
        return await work
    except asyncio.CancelledError:
        # Others may want this task to end as well.
        if has_left and task.cancelling() == 1:
            raise ClientGone from None
        raise
    finally:
        is_over = True
        if has_left:
            task.uncancel()
        timer.cancel()
        await _stop(*watching)


async def observed(
    scope: Scope, model: str, events: AsyncGenerator[list[Event], None]
) -> AsyncGenerator[list[Event], None]:
    """Passes `events` on, and notes for the access log when the first text came and how many tokens there were."""
    access: Access = scope["state"]["access"]
    access.model = model
    async with aclosing(events):
        async for batch in events:
            is_first_text = access.first_text_at is None
            for event in batch:
                if isinstance(event, TextDelta):
                    access.saw_text()
                elif isinstance(event, Finished):
                    access.num_tokens += event.usage.completion_tokens
                    if is_first_text:
                        access.saw_end(event.timings.decode_seconds)
            yield batch


def _shown(error: Exception, scope: Scope) -> ShimmyError:
    """The error a client may read; one we did not foresee goes to the log only."""
    access: Access = scope["state"]["access"]
    shown = error if isinstance(error, ShimmyError) else internal_error(error, access.id)
    access.error = shown.code
    return shown


def internal_error(error: Exception, request_id: str) -> ShimmyError:
    """Log what nobody foresaw, and return what may be said about it."""
    log.error("request %s failed", request_id, exc_info=error)
    return ShimmyError(f"internal error; the server's log has it under request id {request_id}")


def _this_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _stop(*tasks: asyncio.Task[Any]) -> None:
    """The tasks are over when it returns."""
    if not tasks:
        return
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
