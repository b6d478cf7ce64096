"""What Hypercorn does otherwise on one connection."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, RawData
from hypercorn.protocol.h11 import H11Protocol
from starlette.types import Message, Send

from shimmy.server.connection import Connection
from shimmy.server.conversation import IdleTimer
from tests.program import inside
from tests.server.live import Inside, run_inside


@inside("connections")
def test_the_head_of_an_answer_goes_out_with_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[bytes] = []
    write = asyncio.StreamWriter.write

    def note(self: asyncio.StreamWriter, data: bytes) -> None:
        written.append(bytes(data))
        write(self, data)

    monkeypatch.setattr(asyncio.StreamWriter, "write", note)

    async def test(server: Inside) -> None:
        for path in ("/health", "/v1/models"):
            written.clear()
            answer = await server.ask("GET", path)
            assert answer.status == 200 and answer.body
            [sent] = [data for data in written if data.startswith(b"HTTP/1.1 ")]
            assert sent.endswith(answer.body)

    run_inside(test)


@inside("connections")
def test_a_head_without_a_body_goes_out() -> None:
    async def test(server: Inside) -> None:
        headers = {"origin": "http://localhost", "access_control_request_method": "POST"}
        async with asyncio.timeout(60):
            assert (await server.ask("OPTIONS", "/v1/chat/completions", **headers)).status == 204

    run_inside(test)


class Exchanges(TaskGroup):
    """Of one connection: the `send` of each, whose application is the test."""

    def __init__(self) -> None:
        self.sends: list[Send] = []

    async def spawn_app(self, app: Any, config: Any, scope: Any, send: Any) -> Any:
        self.sends.append(send)
        return asyncio.Queue[Message]().put


class Wire:
    """What is below Hypercorn's protocol, and what it wrote. The client has left after its requests."""

    def __init__(self) -> None:
        self.reader = asyncio.StreamReader()
        self.writer = SimpleNamespace(transport=SimpleNamespace(is_closing=lambda: True))
        self.written = b""
        self.num_exchanges = 0

    async def send(self, event: Any) -> None:
        self.written += event.data if isinstance(event, RawData) else b""


@pytest.mark.parametrize("has_left", [False, True])
def test_the_end_of_an_exchange_is_none_of_the_next(has_left: bool) -> None:
    async def test() -> None:
        wire, exchanges = Wire(), Exchanges()
        context = WorkerContext(None)
        protocol = H11Protocol(None, Config(), context, exchanges, {}, False, None, None, wire.send)  # type: ignore
        reading = asyncio.create_task(protocol.handle(RawData(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2)))
        start: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        end: Message = {"type": "http.response.body", "body": b"ok", "more_body": False}
        async with asyncio.timeout(60):
            while not exchanges.sends:
                await asyncio.sleep(0)
            [first] = exchanges.sends
            first_connection = Connection(first)
            await first(start)
            await first(end)
            await reading
            _, second = exchanges.sends
            second_connection = Connection(second)
            await second(start)
            if has_left:
                await protocol.handle(Closed())
            await first_connection.settle()
            await second(end)
            await second_connection.settle()
        assert wire.written.count(b"\r\n\r\nok") == 2

    asyncio.run(test())


async def nothing() -> None: ...


class Group(TaskGroup):
    """Notes that something is spawned."""

    def __init__(self) -> None:
        self.spawned = asyncio.Event()
        self.begin: Callable[..., Any] = nothing

    def spawn(self, func: Callable[..., Any], *args: Any) -> None:
        self.spawned.set()
        self.begin = func


def test_an_idle_connection_is_waited_for_until_the_server_ends() -> None:
    async def test() -> None:
        is_over = False
        timer, group = IdleTimer(3600, lambda: is_over), Group()
        await timer.restart(group, nothing)
        assert timer.is_running
        timer.hurry()
        assert group.spawned.is_set() and not timer.is_running

        is_over = True
        group.spawned.clear()
        await timer.restart(group, nothing)
        async with asyncio.timeout(60):
            await group.spawned.wait()

    asyncio.run(test())


def test_an_idle_timer_that_was_stopped_does_nothing() -> None:
    async def test() -> None:
        timer, group = IdleTimer(0, lambda: False), Group()
        await timer.restart(group, nothing)
        await timer.stop()
        timer.hurry()
        await asyncio.sleep(0.01)
        assert not group.spawned.is_set() and not timer.is_running

    asyncio.run(test())


def test_a_request_that_comes_as_the_time_is_over_is_answered() -> None:
    async def test() -> None:
        acts: list[str] = []

        async def act() -> None:
            acts.append("closed")

        timer, group = IdleTimer(3600, lambda: False), Group()
        for is_stopped in (True, False):
            await timer.restart(group, act)
            timer.hurry()
            if is_stopped:
                await timer.stop()
            await group.begin()
            assert acts == ([] if is_stopped else ["closed"])

    asyncio.run(test())
