import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Scope

from shimmy.core.errors import RequestError, ShimmyError, WorkerLost
from shimmy.core.events import Accepted, Event, Finished, TextDelta, Timings, Usage
from shimmy.server import streaming
from shimmy.server.access import Access
from shimmy.server.streaming import PING, ClientGone, EventStream, observed, until_disconnect

NEVER = 3600.0


class Wire:
    """The server's side of ASGI: what was sent, and a client that leaves when told to."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.wrote = asyncio.Event()
        self.is_asked = False
        self.scope: Scope = {"type": "http", "state": {"access": Access("req_1", "POST", "/v1/x")}}

    async def receive(self) -> Message:
        self.is_asked = True
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Like Hypercorn's: suspends only while the client does not read, and takes everything after it left."""
        if not self.reading.is_set():
            await self.reading.wait()
        self.sent.append(message)
        self.wrote.set()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    async def run(self, source: AsyncGenerator[bytes, None], ping_seconds: float = NEVER) -> None:
        await EventStream(source, encode, ping_seconds)(self.scope, self.receive, self.send)


def encode(error: ShimmyError) -> bytes:
    return f"<{error.code}: {error.message}>".encode()


def run(test: Callable[[Wire], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(90):
            await test(Wire())

    asyncio.run(main())


class Source:
    """Yields `pieces`, then waits, fails or ends; knows how far it got and whether it was closed."""

    def __init__(self, *pieces: bytes, then: Exception | None = None, wait: bool = False) -> None:
        self.pieces, self.then, self.wait = pieces, then, wait
        self.num_pulled = 0
        self.release = asyncio.Event()
        self.closed = False

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            for piece in self.pieces:
                self.num_pulled += 1
                yield piece
            if self.wait:
                await self.release.wait()
            if self.then:
                raise self.then
        finally:
            self.closed = True


def test_a_stream_is_sent_as_it_comes_and_ends() -> None:
    async def test(wire: Wire) -> None:
        await wire.run(Source(b"a", b"b")())
        start, *bodies = wire.sent
        assert start["status"] == 200
        assert (b"content-type", b"text/event-stream; charset=utf-8") in start["headers"]
        assert [message["body"] for message in bodies] == [b"a", b"b", b""]
        assert [message["more_body"] for message in bodies] == [True, True, False]

    run(test)


def test_an_error_before_the_first_event_keeps_its_status() -> None:
    async def test(wire: Wire) -> None:
        with pytest.raises(RequestError, match="too bad"):
            await wire.run(Source(then=RequestError("too bad"))())
        assert wire.sent == []

    run(test)


def test_an_error_later_is_the_last_event() -> None:
    async def test(wire: Wire) -> None:
        await wire.run(Source(b"a", then=WorkerLost("it died"))())
        assert wire.body == b"a<worker_lost: it died>"
        assert wire.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
        assert wire.scope["state"]["access"].error == "worker_lost"

    run(test)


def test_an_unforeseen_error_shows_no_internals(caplog: pytest.LogCaptureFixture) -> None:
    async def test(wire: Wire) -> None:
        await wire.run(Source(b"a", then=ValueError("secret"))())
        assert b"secret" not in wire.body
        assert b"<internal_error: " in wire.body and b"req_1" in wire.body

    run(test)
    assert "secret" in caplog.text and "req_1" in caplog.text


def test_the_status_does_not_wait_longer_than_a_ping() -> None:
    async def test(wire: Wire) -> None:
        source = Source(wait=True, then=RequestError("too late for a status"))
        task = asyncio.create_task(wire.run(source(), ping_seconds=0.01))
        await wire.wrote.wait()
        while wire.body.count(PING) < 2:
            await asyncio.sleep(0.001)
        source.release.set()
        await task
        assert wire.sent[0]["status"] == 200
        assert wire.body.endswith(PING + b"<invalid_request: too late for a status>")

    run(test)


def test_a_protocol_s_own_pings_come_after_its_first_event() -> None:
    async def test(wire: Wire) -> None:
        async def source() -> AsyncGenerator[bytes, None]:
            yield b""
            while wire.body.count(PING) < 2:
                await asyncio.sleep(0.001)
            yield b"<first>"
            while wire.body.count(b"<ping>") < 2:
                await asyncio.sleep(0.001)
            yield b"<last>"

        await EventStream(source(), encode, 0.01, ping=b"<ping>")(wire.scope, wire.receive, wire.send)
        before, _, after = wire.body.partition(b"<first>")
        assert before == PING * before.count(PING) and after == b"<ping>" * after.count(b"<ping>") + b"<last>"

    run(test)


def test_pings_fill_silence_only() -> None:
    async def test(wire: Wire) -> None:
        async def chatty() -> AsyncGenerator[bytes, None]:
            for _ in range(20):
                await asyncio.sleep(0.01)
                yield b"x"

        await wire.run(chatty(), ping_seconds=5.0)
        assert wire.body == b"x" * 20

    run(test)


def test_a_client_that_leaves_closes_the_source() -> None:
    async def test(wire: Wire) -> None:
        source = Source(b"a", wait=True)
        task = asyncio.create_task(wire.run(source()))
        await wire.wrote.wait()
        wire.gone.set()
        with pytest.raises(ClientGone):
            await task
        assert source.closed

    run(test)


def test_a_client_that_leaves_before_the_first_event_closes_the_source() -> None:
    async def test(wire: Wire) -> None:
        source = Source(wait=True)
        task = asyncio.create_task(wire.run(source()))
        await asyncio.sleep(0)
        wire.gone.set()
        with pytest.raises(ClientGone):
            await task
        assert wire.sent == []

    run(test)


def test_the_loop_is_not_wedged_by_a_source_and_a_send_that_never_suspend() -> None:
    """Hypercorn's send neither raises nor suspends when the client has left (reliability: the loop wedge)."""

    async def test(wire: Wire) -> None:
        async def endless() -> AsyncGenerator[bytes, None]:
            while True:
                yield b"x"

        wire.gone.set()
        with pytest.raises(ClientGone):
            await wire.run(endless())
        assert len(wire.sent) < 100

    run(test)


def test_nothing_is_pulled_while_the_client_does_not_read() -> None:
    async def test(wire: Wire) -> None:
        source = Source(b"a", b"b", b"c")
        wire.reading.clear()
        task = asyncio.create_task(wire.run(source(), ping_seconds=0.001))
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert source.num_pulled == 1
        wire.reading.set()
        await task
        assert wire.body.replace(PING, b"") == b"abc"

    run(test)


def test_a_client_that_leaves_while_it_does_not_read_closes_the_source() -> None:
    async def test(wire: Wire) -> None:
        source = Source(b"a", b"b")
        wire.reading.clear()
        task = asyncio.create_task(wire.run(source()))
        while source.num_pulled == 0:
            await asyncio.sleep(0)
        wire.gone.set()
        with pytest.raises(ClientGone):
            await task
        assert source.closed

    run(test)


def test_until_disconnect_returns_or_raises_what_the_work_does() -> None:
    async def fine() -> int:
        return 7

    async def broken() -> int:
        raise WorkerLost("gone")

    async def test(wire: Wire) -> None:
        assert await until_disconnect(wire.receive, fine()) == 7
        with pytest.raises(WorkerLost):
            await until_disconnect(wire.receive, broken())

    run(test)


def test_until_disconnect_cancels_the_work() -> None:
    async def test(wire: Wire) -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        task = asyncio.create_task(until_disconnect(wire.receive, work()))
        await begun.wait()
        wire.gone.set()
        with pytest.raises(ClientGone):
            await task
        assert cancelled.is_set()

    run(test)


def test_a_task_goes_on_after_the_client_has_left() -> None:
    async def test(wire: Wire) -> None:
        wire.gone.set()
        with pytest.raises(ClientGone):
            await until_disconnect(wire.receive, asyncio.sleep(60))
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    run(test)


def test_work_that_ends_as_the_client_leaves_has_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "_MOMENT_SECONDS", 0.0)

    async def test(wire: Wire) -> None:
        async def work() -> int:
            while not wire.is_asked:
                await asyncio.sleep(0)
            # Whoever waits for the same waits for longer already, and has its turn just before.
            asyncio.get_running_loop().call_soon(wire.gone.set)
            await wire.gone.wait()
            return 7

        assert await until_disconnect(wire.receive, work()) == 7
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None and not task.cancelling()

    run(test)


def test_a_task_that_others_end_is_cancelled_and_not_left() -> None:
    async def test(wire: Wire) -> None:
        wire.gone.set()
        task = asyncio.create_task(until_disconnect(wire.receive, asyncio.sleep(60)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(test)


def test_observed_notes_text_and_tokens_and_closes_its_source() -> None:
    async def test(wire: Wire) -> None:
        finished = Finished("r", 0, "stop", Usage(3, 5), Timings(0, 0, 0))
        batches: list[list[Event]] = [[Accepted("r", 3)], [TextDelta("r", 0, "hi"), finished]]
        closed: list[bool] = []

        async def source() -> AsyncGenerator[list[Event], None]:
            try:
                for batch in batches:
                    yield batch
            finally:
                closed.append(True)

        access: Any = wire.scope["state"]["access"]
        passed = []
        async for batch in observed(wire.scope, "echo", source()):
            passed.append(batch)
            assert (access.first_text_at is not None) == (len(passed) == 2)
        assert passed == batches
        assert (access.model, access.num_tokens, closed) == ("echo", 5, [True])

        partial = observed(wire.scope, "echo", source())
        await anext(partial)
        await partial.aclose()
        assert closed == [True, True]

    run(test)
