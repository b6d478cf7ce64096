"""A client that shows every byte, so that a test can send what no library would, and a server by its port."""

import asyncio
import json
import re
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec

# How long a request may take that takes for ever. What has to come before is late when the machine is busy; a test then
# asks again, with the next of these.
PATIENCE_SECONDS = (0.5, 4.0, 25.0)


class Answer(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object; fails unless the answer is nothing but one, with all four keys and nothing else."""
        content = self.json()
        assert list(content) == ["error"] and set(content["error"]) == {"message", "type", "param", "code"}
        assert self.headers["content-type"] == "application/json"
        return cast(dict[str, Any], content["error"])


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def request(self, method: str, path: str, body: Any = b"", **headers: str) -> None:
        """A body that is not bytes becomes JSON. Headers as keywords: `x_api_key` is `x-api-key`."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"host": "localhost", "content-length": str(len(content))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        await self.send("\r\n".join([*lines, "", ""]).encode() + content)

    async def head(self) -> Answer:
        """Status and headers of the next answer; 100 Continue is passed over."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        status = int(first.split(" ")[1])
        if status == 100:
            return await self.head()
        pairs = (line.split(": ", 1) for line in lines if line)
        return Answer(status, {name.lower(): value for name, value in pairs}, b"")

    async def answer(self, method: str = "POST") -> Answer:
        """The next answer, whole."""
        answer = await self.head()
        if answer.headers.get("transfer-encoding") == "chunked":
            async for piece in self.chunks():
                answer.body += piece
        elif method != "HEAD":
            answer.body = await self.reader.readexactly(int(answer.headers.get("content-length", 0)))
        return answer

    async def chunks(self) -> AsyncIterator[bytes]:
        """HTTP chunks until the last; a connection that ends before that raises IncompleteReadError."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events and comments, without the empty line that ends them."""
        pending = b""
        async for piece in self.chunks():
            *events, pending = (pending + piece).split(b"\n\n")
            for event in events:
                yield event
        assert pending == b""

    async def data(self) -> AsyncIterator[Any]:
        """What the events hold, comments left out; [DONE] is a string."""
        async for event in self.events():
            if not event.startswith(b":"):
                content = event.removeprefix(b"data: ")
                yield "[DONE]" if content == b"[DONE]" else json.loads(content)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass


class Live(ABC):
    """A server that runs, by its port. What the waits can see of it depends on where it runs."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def connect(self, receive_buffer: int | None = None) -> AsyncIterator[Client]:
        """With a small receive buffer a client that does not read is soon felt by the server."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self.port))
        client = Client(*await asyncio.open_connection(sock=sock, limit=receive_buffer or 1 << 16))
        try:
            yield client
        finally:
            await client.close()

    async def ask(self, method: str, path: str, body: Any = b"", **headers: str) -> Answer:
        """One exchange on a connection of its own."""
        async with self.connect() as client:
            await client.request(method, path, body, **headers)
            return await client.answer(method)

    async def chat(self, prompt: str, **fields: Any) -> Answer:
        return await self.ask("POST", "/v1/chat/completions", chat_body(prompt, **fields))

    async def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """All that a stream holds."""
        async with self.connect() as client:
            await client.request("POST", path, body | {"stream": True})
            assert (await client.head()).status == 200
            return [data async for data in client.data()]

    async def overdue(self, path: str, body: dict[str, Any], word: bytes) -> Answer:
        """The stream of a request whose time was up once it had said `word`."""
        for seconds in PATIENCE_SECONDS:
            answer = await self.ask("POST", path, body | {"stream": True, "timeout": seconds})
            if word in answer.body:
                return answer
        raise AssertionError(answer)

    async def say(self, order: str) -> str:
        """What the fake worker answers to an order."""
        answer = await self.chat(order)
        return cast(str, answer.json()["choices"][0]["message"]["content"])

    async def until_logged(self, pattern: str) -> None:
        """Wait for an Abort, Pause or Resume to reach the worker."""
        while not re.search(pattern, await self.say("!log")):
            pass

    @abstractmethod
    async def until_active(self, count: int) -> None:
        """Wait until so many requests wait or run."""

    @abstractmethod
    async def until_idle(self) -> None:
        """Wait until every answer has ended."""

    @abstractmethod
    async def until_no_connections(self) -> None:
        """Wait for the server to forget every connection."""


def chat_body(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": prompt}], **fields}
