"""One connection, as Hypercorn (0.18) holds it. With connection.py the only module that knows Hypercorn's insides."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.events import Closed, RawData, Updated

if TYPE_CHECKING:
    from hypercorn.asyncio.task_group import TaskGroup
    from hypercorn.events import Event

_MAX_READ_BYTES = 1 << 16
_HEAD_TABLE_BYTES = 4096
_LINGER_SECONDS = 0.5
_LINGER_BYTES = 1 << 20
# What an HTTP/1 answer begins with; nothing that HTTP/2 or a WebSocket sends does.
_HEAD = b"HTTP/1.1 "


class Conversation(TCPServer):
    """Hypercorn closes a connection when nothing is asked for some seconds, but forgets to when HTTP/2 was agreed on
    and nothing was asked after that; and it holds one that the client has ended for as long again."""

    idle_task: "IdleTimer"  # type: ignore[assignment]

    def __init__(self, *arguments: Any, stall_seconds: float) -> None:
        """A client that takes nothing for `stall_seconds` is cut off when its connection is closed."""
        super().__init__(*arguments)
        self._stall_seconds = stall_seconds
        self.idle_task = IdleTimer(self.config.keep_alive_timeout, self.context.terminated.is_set)
        self._head = b""
        # Those that connection.py has begun, and not settled.
        self.num_exchanges = 0

    async def protocol_send(self, event: "Event") -> None:
        if isinstance(event, Updated) and self.reader.at_eof():
            return await self.idle_task.stop()
        if isinstance(event, RawData):
            if event.data.startswith(_HEAD) and not self._head:
                return self._hold(event.data)
            if not event.data and not self._head:
                return None
            event, self._head = RawData(self._head + event.data), b""
        elif isinstance(event, Closed):
            self._release()
        await super().protocol_send(event)

    def _hold(self, head: bytes) -> None:
        """Until there is some of the body, which mostly is at once: two writes are two packets, and wake the client
        twice."""
        self._head = head
        self.loop.call_soon(self._release)

    def _release(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            with suppress(ConnectionError, RuntimeError):
                self.writer.write(head)

    async def _idle_timeout(self) -> None:
        await asyncio.shield(self._initiate_server_close())
        self._cut_if_stuck()

    async def _close(self) -> None:
        self._cut_if_stuck()
        await super()._close()

    def _cut_if_stuck(self, num_left_before: int = 0) -> None:
        """A connection that is closed lives until the client has taken what is left for it: one that takes nothing
        would have it for ever."""
        transport = self.writer.transport
        num_left = transport.get_write_buffer_size()
        if num_left and num_left == num_left_before:
            transport.abort()
        elif num_left:
            self.loop.call_later(self._stall_seconds, self._cut_if_stuck, num_left)

    async def _read_data(self) -> None:
        while not self.reader.at_eof():
            try:
                data = await self.reader.read(_MAX_READ_BYTES)
            except OSError:
                break
            await self.protocol.handle(RawData(data))
            self._keep_table_small()
            if self._has_message_too_big():
                await self._linger()
                break
            if not self.idle_task.is_running and self._is_quiet():
                await self.idle_task.restart(self._task_group, self._idle_timeout)
        await self.protocol.handle(Closed())
        # What an answer still has to send waits for room; nobody makes any now.
        for buffer in list(getattr(self.protocol.protocol, "stream_buffers", {}).values()):
            await buffer.close()
        await self.idle_task.stop()

    def _keep_table_small(self) -> None:
        """The table that HTTP/2 compresses heads with may be as large as the client likes, and has something new of
        each answer. A server may use less of it (RFC 7541, section 4.2)."""
        encoder = getattr(getattr(self.protocol.protocol, "connection", None), "encoder", None)
        if encoder is not None and encoder.header_table_size > _HEAD_TABLE_BYTES:
            encoder.header_table_size = _HEAD_TABLE_BYTES

    def _has_message_too_big(self) -> bool:
        """Hypercorn says so to a WebSocket client, and goes on keeping all that comes of the message."""
        http = self.protocol.protocol
        streams = getattr(http, "streams", None)
        for stream in list(streams.values()) if streams is not None else [getattr(http, "stream", None)]:
            buffer = getattr(stream, "buffer", None)
            if buffer is not None and buffer.length > buffer.max_length:
                return True
        return False

    async def _linger(self) -> None:
        """Take what the client still sends, for a moment, so that it reads what was said last and not a reset."""
        num_bytes = 0
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(_LINGER_SECONDS):
                while num_bytes < _LINGER_BYTES and (data := await self.reader.read(_MAX_READ_BYTES)):
                    num_bytes += len(data)

    def _is_quiet(self) -> bool:
        streams = getattr(self.protocol.protocol, "streams", None)
        return streams is not None and not streams


class IdleTimer:
    """In the place of Hypercorn's own, which makes a task for each request, and cancels it at the next one."""

    def __init__(self, seconds: float, is_over: Callable[[], bool]) -> None:
        """`is_over` says whether the server ends: then nothing is waited for any more."""
        self._seconds = seconds
        self._is_over = is_over
        self._timer: asyncio.TimerHandle | None = None
        self._expire: Callable[[], None] = lambda: None
        self._has_expired = False

    @property
    def is_running(self) -> bool:
        return self._timer is not None

    async def restart(self, task_group: "TaskGroup", action: Callable[[], Awaitable[None]]) -> None:
        """Have `action` run when the time is over, unless this is stopped before it begins."""
        await self.stop()

        async def act() -> None:
            if self._has_expired:
                await action()

        def expire() -> None:
            self._timer, self._has_expired = None, True
            task_group.spawn(act)

        self._expire = expire
        self._timer = asyncio.get_running_loop().call_later(0 if self._is_over() else self._seconds, expire)

    async def stop(self) -> None:
        self._has_expired = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def hurry(self) -> None:
        """If it runs, its time is over now."""
        if self._timer is not None:
            self._timer.cancel()
            self._expire()
