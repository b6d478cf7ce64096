"""/ws/generate over fake workers, with a client that shows every frame."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import wsproto
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from tests.program import inside
from tests.server.live import Live, run_inside, run_live, with_settings

pytestmark = pytest.mark.program


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
    server: Live, target: str = "/ws/generate", subprotocols: tuple[str, ...] = (), **headers: str
) -> AsyncIterator[tuple[Socket, Event]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    client = Socket(reader, writer)
    extra = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    try:
        await client.send(Request("localhost", target, subprotocols=list(subprotocols), extra_headers=extra))
        yield client, await client.next()
    finally:
        writer.close()


def test_tokens_are_raw_frames_and_the_end_is_an_object() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, first):
            assert isinstance(first, AcceptConnection)
            await client.ask("!say one\ntwo")
            assert await client.until_end() == ["one\ntwo", '{"done":true}']
            await client.send(BytesMessage(b'{"model":"echo","messages":[{"role":"user","content":"one two"}]}'))
            *tokens, end = await client.until_end()
            assert "".join(tokens) == "one two" and end == '{"done":true}'

    run_live(test)


@pytest.mark.parametrize(("target", "protocols"), [("?frames=json", ()), ("", ("shimmy.json",))])
def test_tokens_as_objects(target: str, protocols: tuple[str, ...]) -> None:
    async def test(server: Live) -> None:
        async with socket(server, f"/ws/generate{target}", protocols) as (client, first):
            assert isinstance(first, AcceptConnection) and first.subprotocol == (protocols[0] if protocols else None)
            await client.ask("!say one")
            assert [json.loads(frame) for frame in await client.until_end()] == [{"token": "one"}, {"done": True}]

    run_live(test)


@inside("a setting without a flag")
@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "invalid_request"),
        ("", "invalid_request"),
        ('{"model":"nope","prompt":"a"}', "model_not_found"),
        ('{"model":"echo","prompt":"a","max_tokens":0}', "invalid_request"),
        ('{"model":"echo","prompt":"!crash SIGABRT 0"}', "worker_lost"),
        ('{"model":"echo","prompt":"%s"}' % ("x" * 2000), "request_too_large"),
    ],
)
def test_an_error_is_a_frame_and_the_next_request_is_answered(content: str, code: str) -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            await client.send(TextMessage(content))
            (*_, last) = await client.until_end()
            assert json.loads(last)["code"] == code
            await client.ask("!say one")
            assert (await client.until_end())[0] == "one"

    run_live(test, settings=with_settings(max_body_bytes=1000))


def test_strict_requests_are_refused_for_unknown_fields() -> None:
    async def test(server: Live) -> None:
        async with socket(server, "/ws/generate?strict=1") as (client, _):
            await client.ask("!say hi", foo=1)
            refused = json.loads(await client.text())
            assert refused["code"] == "invalid_request" and "foo" in refused["error"]
            await client.ask("!say hi")
            assert await client.text() == "hi"

    run_live(test)


def test_a_crash_in_the_middle_ends_with_an_error() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            await client.ask("!crash SIGABRT 1")
            first, last = await client.until_end()
            assert first == "w0" and json.loads(last)["code"] == "worker_lost"

    run_live(test)


def test_one_request_at_a_time() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            await client.ask("!stall 1")
            assert await client.text() == "w0"
            await client.ask("two")
            assert "one request at a time" in json.loads(await client.text())["error"]
            await server.say("!release")
            assert await client.text() == '{"done":true}'

    run_live(test)


def test_a_client_that_leaves_ends_its_request() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            await client.ask("!stall 1")
            await client.text()
        await server.until_active(0)
        async with socket(server) as (client, _):
            await client.ask("!stall 1")
            await client.text()
            await client.send(CloseConnection(1000))
            await server.until_active(0)

    run_live(test)


def test_a_client_that_reads_nothing_holds_up_the_worker_and_is_cut() -> None:
    async def test(server: Any) -> None:
        async with socket(server) as (client, _):
            await client.ask("!flood 20000", max_tokens=20000)
            await server.until_active(1)
            await server.until_active(0)
        await server.until_no_connections()

    run_inside(test, settings=with_settings(stall_seconds=0.3), keep_alive_seconds=0.1)


@inside("a setting without a flag")
def test_a_client_that_asks_nothing_is_closed() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            event = await client.next()
            assert isinstance(event, CloseConnection) and event.code == 1000

    run_live(test, settings=with_settings(body_seconds=0.1))


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/ws/generate", {"origin": "http://evil.example"}, 403),
        ("/ws/generate", {}, 401),
        ("/ws/nope", {"x_api_key": "key"}, 403),
    ],
)
def test_the_guards_refuse_before_anything_is_accepted(target: str, headers: dict[str, str], status: int) -> None:
    async def test(server: Live) -> None:
        async with socket(server, target, (), **headers) as (client, first):
            assert isinstance(first, RejectConnection) and first.status_code == status
            if first.has_body:
                body = await client.next()
                assert isinstance(body, RejectData) and (
                    not body.data or set(json.loads(body.data)) == {"error", "code"}
                )

    run_live(test, settings=with_settings(api_keys=("key",)))


def test_a_key_lets_in() -> None:
    async def test(server: Live) -> None:
        async with socket(server, x_api_key="key") as (client, first):
            assert isinstance(first, AcceptConnection)
            await client.ask("!say one")
            assert (await client.until_end())[0] == "one"

    run_live(test, settings=with_settings(api_keys=("key",)))
