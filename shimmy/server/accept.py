"""Accepts connections, so many and no more, and has Hypercorn (0.18) speak HTTP on each. With connection.py the only
module that knows Hypercorn's insides.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.events import Closed, RawData, Updated

from shimmy.server.listen import BACKLOG, is_loopback

if TYPE_CHECKING:
    import ssl

    from hypercorn.config import Config
    from hypercorn.events import Event
    from hypercorn.typing import AppWrapper, ASGIFramework, ConnectionState

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
_MAX_READ_BYTES = 1 << 16
_HEAD_TABLE_BYTES = 4096
_LINGER_SECONDS = 0.5
_LINGER_BYTES = 1 << 20
# Nothing was read, so nobody knows whose client it is: OpenAI's and Anthropic's find what they look for, and Ollama's
# an `error`.
_FULL_BODY = (
    b'{"type":"error","error":{"type":"overloaded_error","message":"there are too many connections","param":null,'
    b'"code":"unavailable"}}'
)
_FULL = (
    b"HTTP/1.1 503 \r\ncontent-type: application/json\r\ncontent-length: %d\r\nretry-after: 1\r\n"
    b"retry-after-ms: 1000\r\nx-should-retry: true\r\nconnection: close\r\n\r\n%s"
) % (len(_FULL_BODY), _FULL_BODY)


class Acceptor:
    """Owns the count of open connections, in all and from each address. Those of this machine are counted in all only:
    they may be those of a proxy, and of many behind it."""

    def __init__(
        self,
        app: "ASGIFramework",
        config: "Config",
        fd: int,
        *,
        max_connections: int,
        max_per_address: int,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        self._app = cast("AppWrapper", ASGIWrapper(app))
        self.config = config
        self._fd = fd
        self._tls = tls
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._context = WorkerContext(None)
        self._num_from: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def num_open(self) -> int:
        return len(self._tasks)

    async def serve(self, until: Callable[[], Awaitable[Any]]) -> None:
        """Returns when `until` does, and every connection has ended or had Hypercorn's `graceful_timeout` for it."""
        timeout = HANDSHAKE_SECONDS if self._tls else None
        listener = socket.socket(fileno=self._fd)
        server = await asyncio.start_server(
            self._connected, sock=listener, backlog=BACKLOG, ssl=self._tls, ssl_handshake_timeout=timeout
        )
        try:
            await until()
        finally:
            await self._context.terminated.set()
            server.close()
            await self._end()

    async def _end(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.config.graceful_timeout)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = _address(writer)
        if len(self._tasks) >= self._max_connections or (address and self._num_from[address] >= self._max_per_address):
            return self._turn_away(writer)
        task = asyncio.create_task(self._converse(reader, writer))
        self._tasks.add(task)
        self._num_from[address] += 1
        task.add_done_callback(lambda task: self._forget(task, address))

    def _turn_away(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_FULL)
        writer.close()

    def _forget(self, task: asyncio.Task[None], address: str) -> None:
        self._tasks.discard(task)
        self._num_from[address] -= 1
        if not self._num_from[address]:
            del self._num_from[address]

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = cast("ConnectionState", {})
        try:
            await Conversation(self._app, asyncio.get_running_loop(), self.config, self._context, state, reader, writer)
        except Exception as error:
            # Frames that Hypercorn has no answer to; whoever sent them has no connection any more, and that is all.
            log.warning("a connection failed: %s", _cause(error))
            writer.transport.abort()


class Conversation(TCPServer):
    """One connection. Hypercorn closes it when nothing is asked for some seconds, but forgets to when HTTP/2 was agreed
    on and nothing was asked after that; and it holds a connection that the client has ended for as long again."""

    async def protocol_send(self, event: "Event") -> None:
        if isinstance(event, Updated) and self.reader.at_eof():
            return await self.idle_task.stop()
        await super().protocol_send(event)

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
            if self.idle_task._handle is None and self._is_quiet():
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


def _address(writer: asyncio.StreamWriter) -> str:
    """Whom a connection counts for: an IPv4 address, or the network of an IPv6 address; "" for this machine."""
    peer = writer.get_extra_info("peername")
    name = str(peer[0]).partition("%")[0] if isinstance(peer, tuple) else ""
    if not name or is_loopback(name):
        return ""
    import ipaddress

    address = ipaddress.ip_address(name)
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_loopback:
        return ""
    # A host has a whole network of IPv6 addresses to itself.
    return str(address) if address.version == 4 else str(ipaddress.ip_network((int(address), 64), strict=False))


def _cause(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
