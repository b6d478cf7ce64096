"""A small HTTP client for streamed completions that notes when each piece of text arrived.

Bare asyncio streams: it must take as little as possible of the cores that the measured server runs on.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


class HttpError(Exception):
    """The server answered with another status than 200."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(f"HTTP {status}: {body[:300]!r}")
        self.status = status


@dataclass
class Reply:
    """One streamed completion; times in seconds of `time.perf_counter`, token counts as the server reports them."""

    sent_at: float
    arrived_at: list[float] = field(default_factory=list)
    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None

    @property
    def first_token_seconds(self) -> float:
        return self.arrived_at[0] - self.sent_at

    @property
    def worst_gap_seconds(self) -> float:
        """The longest silence between two pieces of text, 0 when there is only one."""
        return self.worst_gap_since(0.0)

    def worst_gap_since(self, start: float) -> float:
        """The same of those that had not ended at `start`."""
        pairs = zip(self.arrived_at, self.arrived_at[1:], strict=False)
        return max((later - earlier for earlier, later in pairs if later > start), default=0.0)


class Endpoint:
    """Where a server listens; `url` is its base without a path, e.g. "http://127.0.0.1:8080"."""

    def __init__(self, url: str, model: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.model = model

    async def status(self, path: str) -> int | None:
        """The status of a GET, None when nobody listens."""
        try:
            reader, writer = await asyncio.open_connection(self.host, self.port)
        except OSError:
            return None
        try:
            writer.write(self._head("GET", path))
            return (await _response_head(reader))[0]
        except (OSError, EOFError):
            return None
        finally:
            writer.close()

    async def is_healthy(self) -> bool:
        """Whether it answers 200 to /health, or to /v1/models where there is no /health."""
        status = await self.status("/health")
        return status == 200 or (status == 404 and await self.status("/v1/models") == 200)

    async def complete(self, prompt: str, max_tokens: int) -> Reply:
        """Stream one greedy completion to its end. Raises `HttpError`, or OSError when the connection fails."""
        reply = Reply(time.perf_counter())
        await self.stream(prompt, max_tokens, reply)
        if reply.arrived_at and not reply.completion_tokens:
            await self._count(prompt, reply)
        if not reply.arrived_at or not reply.completion_tokens:
            raise HttpError(200, b"the stream had no text, or no usage")
        return reply

    async def stream(self, prompt: str, max_tokens: int, reply: Reply) -> None:
        """The same into a `reply` that can be read meanwhile; cancelling it hangs up."""
        wanted = {"model": self.model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": True}
        body = json.dumps({**wanted, "stream_options": {"include_usage": True}}).encode()
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(self._head("POST", "/v1/completions", body))
            async for event in _events(reader):
                _note(reply, event)
        finally:
            writer.close()

    async def first_model(self) -> str:
        """The id of the first model that the server lists."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(self._head("GET", "/v1/models"))
            _, is_chunked = await _response_head(reader)
            content = b"".join([piece async for piece in (_chunks(reader) if is_chunked else _plain(reader))])
        finally:
            writer.close()
        listed: str = json.loads(content)["data"][0]["id"]
        return listed

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON that is answered. Raises `HttpError`, or OSError when the connection fails."""
        async with aclosing(Session(self)) as session:
            return await session.post(path, body)

    async def _count(self, prompt: str, reply: Reply) -> None:
        """llama-cpp-python's server streams without usage: there each piece is one token, and prompts are counted by a
        route of its own. What has no such route stays as it is."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            writer.write(self._head("POST", "/extras/tokenize/count", json.dumps({"input": prompt}).encode()))
            status, is_chunked = await _response_head(reader)
            body = b"".join([piece async for piece in (_chunks(reader) if is_chunked else _plain(reader))])
            if status == 200 and body.startswith(b"{"):
                reply.prompt_tokens, reply.completion_tokens = json.loads(body)["count"], len(reply.arrived_at)
        finally:
            writer.close()

    def _head(self, method: str, path: str, body: bytes = b"", *, last: bool = True) -> bytes:
        """`last` if nothing more will be asked on this connection."""
        lines = f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
        if last:
            lines += "Connection: close\r\n"
        if body:
            lines += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return lines.encode() + b"\r\n" + body


class Session:
    """Requests one after the other on one connection, as client libraries send them; a new one when the server closes
    it, as llama-server does after a hundred."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON that is answered. Raises `HttpError`, or OSError when the connection fails."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._endpoint.host, self._endpoint.port, limit=1 << 20)
        reader, writer = self._streams
        writer.write(self._endpoint._head("POST", path, json.dumps(body).encode(), last=False))
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, _, size = head.partition(b"content-length:")
        is_last = b"connection: close" in head
        if b"transfer-encoding: chunked" in head:
            content = b"".join([piece async for piece in _chunks(reader)])
            await reader.readline()
        elif size:
            content = await reader.readexactly(int(size.split(None, 1)[0]))
        else:
            content, is_last = await reader.read(), True
        if is_last:
            await self.aclose()
        if (status := int(head.split(None, 2)[1])) != 200:
            raise HttpError(status, content)
        return json.loads(content)

    async def aclose(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def _note(reply: Reply, event: dict[str, Any]) -> None:
    if "error" in event:
        raise HttpError(200, json.dumps(event).encode())
    for choice in event.get("choices") or []:
        if choice.get("text"):
            reply.arrived_at.append(time.perf_counter())
            reply.text += choice["text"]
    if usage := event.get("usage"):
        reply.prompt_tokens, reply.completion_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        reply.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of a server-sent event stream up to its [DONE]."""
    status, is_chunked = await _response_head(reader)
    if status != 200:
        raise HttpError(status, await reader.read(4096))
    pending = b""
    async for piece in _chunks(reader) if is_chunked else _plain(reader):
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and b"[DONE]" not in line:
                yield json.loads(line[5:])


async def _response_head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status, and whether the body is chunked."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    return int(head.split(None, 2)[1]), b"transfer-encoding: chunked" in head


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def _plain(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(65536):
        yield piece
