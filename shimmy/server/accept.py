"""Accepts connections, so many and no more, and has Hypercorn (0.18) speak HTTP on each."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.worker_context import WorkerContext

from shimmy.server import http1
from shimmy.server.conversation import Conversation
from shimmy.server.listen import BACKLOG, is_loopback

if TYPE_CHECKING:
    import ssl

    from hypercorn.config import Config
    from hypercorn.typing import AppWrapper, ASGIFramework, ConnectionState

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
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
        stall_seconds: float,
        tls: "ssl.SSLContext | None" = None,
    ) -> None:
        self._app = cast("AppWrapper", ASGIWrapper(app))
        self.config = config
        self._fd = fd
        self._tls = tls
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._stall_seconds = stall_seconds
        self._context = WorkerContext(None)
        self._num_from: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._conversations: set[Conversation] = set()
        http1.be_lenient()

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
            for conversation in self._conversations:
                conversation.idle_task.hurry()
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
        state, loop = cast("ConnectionState", {}), asyncio.get_running_loop()
        basics = (self._app, loop, self.config, self._context, state)
        conversation = Conversation(*basics, reader, writer, stall_seconds=self._stall_seconds)
        self._conversations.add(conversation)
        try:
            await conversation
        except Exception as error:
            # Frames that Hypercorn has no answer to; whoever sent them has no connection any more, and that is all.
            log.warning("a connection failed: %s", _cause(error))
            writer.transport.abort()
        finally:
            self._conversations.discard(conversation)


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
