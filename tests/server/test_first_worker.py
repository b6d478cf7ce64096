"""What a start that preloads a model does first: the worker is at it while the HTTP stack is imported."""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf

import pytest

from shimmy.core.settings import Settings
from shimmy.pool.process import OnEnd, OnMessage, WorkerProcess
from shimmy.server import lifecycle
from shimmy.server.listen import Listener
from tests.fakes.pool import fake_inference, fake_spawn

LIMIT_SECONDS = 60
NOWHERE = Listener("127.0.0.1", "127.0.0.1", 80, -1)

Spawn = Callable[[OnMessage, OnEnd], Awaitable[WorkerProcess]]


class Order:
    """Notes what a start does, one after the other, up to what it would import the HTTP stack for."""

    def __init__(self, spawn: Spawn = fake_spawn) -> None:
        self.steps: list[str] = []
        self._spawn = spawn

    async def spawn(self, on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
        worker = await self._spawn(on_message, on_end)
        self.steps.append("worker")
        return worker

    async def serve_http(self) -> None:
        self.steps.append("http")
        await asyncio.sleep(0)


async def nothing() -> None:
    pass


def start(order: Order, monkeypatch: pytest.MonkeyPatch, *, preload: str = "echo", patience: float = inf) -> None:
    """A start, and at once its end."""

    async def test() -> None:
        async with asyncio.timeout(LIMIT_SECONDS), fake_inference(spawn=order.spawn) as inference:
            server = lifecycle.Server(Settings(preload=(preload,)), NOWHERE, inference)
            monkeypatch.setattr(server, "_serve_http", order.serve_http)
            monkeypatch.setattr(server, "_announce", nothing)
            await server.run()

    monkeypatch.setattr(lifecycle, "_on_signals", lambda handler: None)
    monkeypatch.setattr(lifecycle, "_SPAWN_SECONDS", min(patience, 10.0 * LIMIT_SECONDS))
    asyncio.run(test())


def test_the_worker_comes_before_the_http_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    async def long(on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
        """What stands before a spawn may wait for a thread, for any number of turns of the loop."""
        for _ in range(1000):
            await asyncio.sleep(0)
        return await fake_spawn(on_message, on_end)

    order = Order(long)
    start(order, monkeypatch)
    assert order.steps == ["worker", "http"]


def test_a_worker_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    order = Order(never)
    start(order, monkeypatch, patience=0.01)
    assert order.steps == ["http"]


def test_without_a_model_no_worker_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    order = Order()
    start(order, monkeypatch, preload="nope")
    assert order.steps == ["http"]
