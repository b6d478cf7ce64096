"""A client that speaks HTTP/2 with prior knowledge, and reads only as much of each stream as it is told to."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import h2.connection
import h2.events
import h2.exceptions

from tests.server.client import Live


class Http2:
    """`data[stream]` is what came, `fields[stream]` headers and trailers; `ended` and `reset` hold stream ids."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_windows: bool) -> None:
        self.reader, self.writer = reader, writer
        self.connection = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.open_windows = open_windows
        self.data: dict[int, bytes] = {}
        self.fields: dict[int, dict[str, str]] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()

    async def request(self, method: str, path: str, body: Any = None, *more: tuple[str, str], end: bool = True) -> int:
        """A body that is not bytes becomes JSON; `more` are headers. Without `end` the body may go on."""
        stream: int = self.connection.get_next_available_stream_id()
        headers = [(":method", method), (":path", path), (":scheme", "http"), (":authority", "localhost"), *more]
        self.connection.send_headers(stream, headers, end_stream=body is None and end)
        if body is not None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.connection.send_data(stream, content, end_stream=end)
        self.data[stream] = b""
        self.fields[stream] = {}
        await self.flush()
        return stream

    async def flush(self) -> None:
        self.writer.write(self.connection.data_to_send())
        await self.writer.drain()

    async def turn(self) -> None:
        """Take what the server sends next. Raises EOFError at its end."""
        received = await self.reader.read(65536)
        if not received:
            raise EOFError
        for event in self.connection.receive_data(received):
            if isinstance(event, h2.events.DataReceived):
                self.data[event.stream_id] += event.data
                self.give_credit(event)
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                self.fields[event.stream_id] |= {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.reset.add(event.stream_id)
        await self.flush()

    def give_credit(self, event: h2.events.DataReceived) -> None:
        if not event.flow_controlled_length:
            return
        self.connection.increment_flow_control_window(event.flow_controlled_length)
        if self.open_windows:
            with suppress(h2.exceptions.StreamClosedError):
                self.connection.increment_flow_control_window(event.flow_controlled_length, event.stream_id)


@asynccontextmanager
async def http2(server: Live, open_windows: bool = True) -> AsyncIterator[Http2]:
    async with server.connect() as client:
        connection = Http2(client.reader, client.writer, open_windows)
        connection.connection.initiate_connection()
        await connection.flush()
        yield connection
