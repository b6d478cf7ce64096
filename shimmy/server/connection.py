"""What ASGI has no words for. With conversation.py the only module that knows Hypercorn's insides (0.18): from its
`send` to the connection, and the queue behind its `receive`.

Covered by tests/faults, which fail when these insides change.
"""

import asyncio
from typing import Any

from hypercorn.events import Updated
from starlette.types import Message, Receive, Send

_NO_ERROR = 0
_CANCEL = 8  # RFC 9113, section 7
_HIGH_WATER_BYTES = 32 << 10
_LOOK_SECONDS = 1.0


class Connection:
    """What is behind Hypercorn's own `send` of one exchange."""

    def __init__(self, send: Send) -> None:
        self._stream: Any = send.__self__  # type: ignore[attr-defined]
        self._protocol = self._stream.send.__self__
        self._conversation = self._protocol.send.__self__
        self._conversation.num_exchanges += 1
        self._reader: asyncio.StreamReader = self._conversation.reader
        self._transport = self._conversation.writer.transport

    async def cut(self) -> None:
        """End this exchange now: on HTTP/1 the connection, on HTTP/2 the one stream, unless the connection is stuck.

        Returning from the app is not enough: Hypercorn then waits for the client to take all that was written.
        """
        if self._is_http2 and self._transport.get_write_buffer_size() == 0:
            await self._reset()
        else:
            self._transport.abort()

    async def refuse_rest(self) -> None:
        """The answer is complete, the request is not, and need not be (RFC 9113, section 8.1). What still comes of it
        would end an HTTP/2 connection with all of its streams: Hypercorn has forgotten that one."""
        if self._is_http2 and not self._protocol.closed:
            stream = self._protocol.connection.streams.get(self._stream.stream_id)
            if stream is not None and not stream.closed:
                self._protocol.connection.reset_stream(stream.stream_id, error_code=_NO_ERROR)
                await self._protocol._flush()

    def watch(self, receive: Receive) -> Receive:
        """A `receive` that also notices the end of a client that has sent its next request already: while that one
        waits, Hypercorn does not read, and so does not learn of it."""
        arrived: asyncio.Queue[Message] = receive.__self__  # type: ignore[attr-defined]

        async def receive_or_notice() -> Message:
            # Mostly it is there, and needs no timer.
            if not arrived.empty():
                return await receive()
            while True:
                try:
                    async with asyncio.timeout(_LOOK_SECONDS):
                        return await receive()
                except TimeoutError:
                    if self._reader.at_eof() or self._transport.is_closing():
                        return {"type": "http.disconnect"}

        return receive_or_notice

    def takes(self, num_bytes: int) -> bool:
        """Whether so much more can be sent without waiting for the client; False where that is not certain."""
        return num_bytes <= _HIGH_WATER_BYTES and not self._is_http2 and self._transport.get_write_buffer_size() == 0

    async def drained(self) -> None:
        """Returns when the client has taken enough of this exchange for more to be sent.

        Hypercorn's `send` waits for HTTP/1 clients, but for HTTP/2 clients whose window is shut it buffers without end.
        """
        buffered = self._protocol.stream_buffers.get(self._stream.stream_id) if self._is_http2 else None
        if buffered is not None and len(buffered.buffer) > _HIGH_WATER_BYTES:
            await buffered.drain()

    def heed(self, send: Send) -> Send:
        """A `send` that returns when the client has taken enough for more to be sent."""

        async def send_and_wait(message: Message) -> None:
            await send(message)
            await self.drained()

        return send_and_wait

    async def settle(self) -> None:
        """To be called when the exchange is over. For a next request that will never have its turn, Hypercorn would
        wait for ever; without it the end of the connection is found.

        A connection whose last stream the client has reset it would keep for ever: it only counts one as idle when it
        has ended a stream itself."""
        self._conversation.num_exchanges -= 1
        if self._is_http2:
            was_reset = self._stream.closed and self._stream.state.name != "CLOSED"
            if was_reset and self._protocol.idle and not self._protocol.closed:
                await self._protocol.send(Updated(idle=True))
        elif self._is_last and (self._transport.is_closing() or self._reader.at_eof()):
            h11_connection = self._protocol.connection
            self._protocol.connection = type(h11_connection)(h11_connection.our_role)
            await self._protocol.can_read.set()

    @property
    def _is_last(self) -> bool:
        """Whether no other exchange has begun on HTTP/1, which would lose what it has written. One whose client has
        left is not the protocol's any more, and goes on for a moment."""
        return not self._conversation.num_exchanges and self._protocol.stream in (None, self._stream)

    @property
    def _is_http2(self) -> bool:
        return hasattr(self._protocol, "stream_buffers")

    async def _reset(self) -> None:
        protocol, stream_id = self._protocol, self._stream.stream_id
        if stream_id in protocol.streams:
            protocol.connection.reset_stream(stream_id, error_code=_CANCEL)
            await protocol.stream_buffers[stream_id].close()
            await protocol._flush()
            await protocol._close_stream(stream_id)
