"""A client that speaks WebSocket, shows every frame, and sends what it is told to, frame or not."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import wsproto
from wsproto.events import Event, Ping, Request, TextMessage

from tests.server.client import Live


class Socket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.events: list[Event] = []

    async def send(self, event: Event) -> None:
        self.writer.write(self.connection.send(event))
        await self.writer.drain()

    async def ask(self, prompt: str, **fields: Any) -> None:
        await self.send(TextMessage(json.dumps({"model": "echo", "prompt": prompt, **fields})))

    async def next(self) -> Event:
        while not self.events:
            data = await self.reader.read(65536)
            self.connection.receive_data(data or None)
            for event in self.connection.events():
                if isinstance(event, Ping):
                    await self.send(event.response())
                else:
                    self.events.append(event)
        return self.events.pop(0)

    async def text(self) -> str:
        """The next frame, whole."""
        text = ""
        while True:
            event = await self.next()
            assert isinstance(event, TextMessage), event
            text += event.data
            if event.message_finished:
                return text

    async def until_end(self) -> list[str]:
        """The frames of one answer, the last of which says that it is over."""
        frames = [await self.text()]
        while not frames[-1].startswith(('{"done"', '{"error"')):
            frames.append(await self.text())
        return frames


@asynccontextmanager
async def socket(
    server: Live,
    target: str = "/ws/generate",
    subprotocols: tuple[str, ...] = (),
    receive_buffer: int | None = None,
    **headers: str,
) -> AsyncIterator[tuple[Socket, Event]]:
    """A connection, and what the server said to it."""
    extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    async with server.connect(receive_buffer) as connection:
        client = Socket(connection.reader, connection.writer)
        await client.send(Request("localhost", target, subprotocols=list(subprotocols), extra_headers=extra))
        yield client, await client.next()
