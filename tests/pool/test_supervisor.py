import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shimmy.core import ipc
from shimmy.core.errors import Draining, ModelFailed, ModelInvalid, ShimmyError, WorkerLost
from shimmy.models.listing import Model
from shimmy.pool.handle import Handle
from shimmy.pool.process import OnEnd, OnMessage, WorkerProcess
from shimmy.pool.supervisor import Crashes, Supervisor, Tools
from tests.fakes.clock import FakeTime
from tests.fakes.pool import children, fake_model, fake_spawn, generation, run, scripted_model, text_of


class Bench:
    """One supervisor with fake time and real fake workers; counts the spawns and keeps the progress."""

    def __init__(self, model: Model | None = None, time: FakeTime | None = None) -> None:
        self.time = time or FakeTime()
        self.num_spawns = 0
        self.progress: list[tuple[str, float]] = []
        tools = Tools(self.spawn, self.time.clock, self.time.sleep, lambda *seen: self.progress.append(seen))
        self.supervisor = Supervisor(model or fake_model("echo"), ipc.EngineOptions(), tools)

    async def spawn(self, on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
        self.num_spawns += 1
        return await fake_spawn(on_message, on_end)

    def phase(self) -> str:
        return self.supervisor.phase

    async def say(self, prompt: str) -> str:
        handle = await self.supervisor.acquire()
        stream = await handle.submit(generation(prompt))
        return text_of([event async for batch in stream for event in batch])

    async def crash(self) -> None:
        with pytest.raises(WorkerLost, match="SIGSEGV"):
            await self.say("!crash SIGSEGV 1")

    async def load_fails(self, error: type[ShimmyError], message: str) -> None:
        with pytest.raises(error, match=message):
            await self.supervisor.acquire()


@asynccontextmanager
async def bench(model: Model | None = None, time: FakeTime | None = None) -> AsyncIterator[Bench]:
    bench = Bench(model, time)
    try:
        yield bench
    finally:
        await bench.supervisor.close()


async def until_loading(bench: Bench) -> None:
    while not bench.progress:
        await asyncio.sleep(0.001)


def test_one_load_serves_everyone_who_waits() -> None:
    async def test() -> None:
        async with bench() as b:
            assert b.phase() == "unloaded"
            handles = await asyncio.gather(*(b.supervisor.acquire() for _ in range(20)))
            assert len(set(handles)) == 1
            assert b.num_spawns == 1
            assert b.phase() == "ready"
            assert b.progress == [("echo", 0.5), ("echo", 1.0)]

    run(test())


def test_a_waiter_that_leaves_does_not_take_the_load_with_it(tmp_path: Path) -> None:
    model = scripted_model("echo", tmp_path, "hold")

    async def test() -> None:
        async with bench(model) as b:
            waiters = [asyncio.create_task(b.supervisor.acquire()) for _ in range(3)]
            await until_loading(b)
            assert (b.phase(), b.supervisor.fraction) == ("loading", 0.5)
            waiters[0].cancel()
            Path(f"{model.paths[0]}.go").touch()
            assert await waiters[1] is await waiters[2]
            assert waiters[0].cancelled()
            assert b.num_spawns == 1

    run(test())


def test_a_load_goes_on_when_everyone_who_waited_has_left(tmp_path: Path) -> None:
    model = scripted_model("echo", tmp_path, "hold")

    async def test() -> None:
        async with bench(model) as b:
            waiter = asyncio.create_task(b.supervisor.acquire())
            await until_loading(b)
            waiter.cancel()
            Path(f"{model.paths[0]}.go").touch()
            assert await b.say("hello") == "hello"
            assert b.num_spawns == 1

    run(test())


def test_a_dead_worker_is_restarted_unasked_after_a_pause() -> None:
    async def test() -> None:
        time = FakeTime(held=True)
        async with bench(time=time) as b:
            await b.crash()
            waiter = asyncio.create_task(b.supervisor.acquire())
            while not time.slept:
                await asyncio.sleep(0)
            assert b.phase() == "restarting"
            assert b.supervisor.loaded is None
            assert not waiter.done()
            time.let_go()
            await waiter
            assert b.phase() == "ready"
            assert time.slept == [0.5]
            assert await b.say("back again") == "back again"

    run(test())


def test_the_pause_doubles_and_the_third_crash_is_the_last() -> None:
    async def test() -> None:
        async with bench() as b:
            for _ in range(3):
                await b.crash()
            await b.load_fails(ModelFailed, "crashed too often, the last time with SIGSEGV")
            await b.load_fails(ModelFailed, "crashed too often, the last time with SIGSEGV")
            assert b.time.slept == [0.5, 1.0]
            assert b.num_spawns == 3
            assert b.phase() == "failed"
            assert "SIGSEGV" in (b.supervisor.reason or "")

    run(test())


def test_a_model_that_crashed_too_often_gets_another_chance_after_five_minutes() -> None:
    async def test() -> None:
        async with bench() as b:
            for _ in range(3):
                await b.crash()
            await b.load_fails(ModelFailed, "too often")
            b.time.now += 300
            assert await b.say("hello") == "hello"
            assert b.supervisor.reason is None

    run(test())


def test_a_load_that_fails_is_tried_again_when_asked_for_and_at_most_three_times(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(scripted_model("echo", tmp_path, "fail model_invalid bad magic")) as b:
            for num_spawns in (1, 2, 3, 3, 3):
                await b.load_fails(ModelInvalid, "bad magic")
                assert b.num_spawns == num_spawns
                assert b.phase() == "failed"
            assert b.supervisor.reason == "bad magic"
            assert b.time.slept == [0.5, 1.0]

    run(test())


def test_a_worker_that_dies_while_it_loads_is_replaced_before_anyone_who_waits_is_told(tmp_path: Path) -> None:
    model = scripted_model("echo", tmp_path, "hold")

    async def test() -> None:
        async with bench(model) as b:
            waiters = [asyncio.create_task(b.say("hello")) for _ in range(3)]
            await until_loading(b)
            [pid] = children()
            os.kill(pid, signal.SIGKILL)
            Path(f"{model.paths[0]}.go").touch()
            assert await asyncio.gather(*waiters) == ["hello"] * 3
            assert (b.num_spawns, b.phase(), b.time.slept) == (2, "ready", [0.5])

    run(test())


def test_workers_that_die_loading_are_replaced_once_for_each_load_and_are_three_at_most(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(scripted_model("echo", tmp_path, "crash SIGABRT")) as b:
            for num_spawns in (2, 3, 3, 3):
                await b.load_fails(ModelFailed, "SIGABRT")
                assert b.num_spawns == num_spawns
                assert b.phase() == "failed"
            assert b.time.slept == [0.5, 1.0]

    run(test())


def test_closing_ends_the_wait_for_a_worker_that_replaces_one_that_died_loading(tmp_path: Path) -> None:
    async def test() -> None:
        time = FakeTime(held=True)
        async with bench(scripted_model("echo", tmp_path, "crash SIGABRT"), time) as b:
            waiter = asyncio.create_task(b.supervisor.acquire())
            while not time.slept:
                await asyncio.sleep(0.001)
            assert not waiter.done()
            await b.supervisor.close()
            with pytest.raises(Draining):
                await waiter
            assert b.num_spawns == 1

    run(test())


def test_everyone_who_waits_learns_why_a_load_failed(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(scripted_model("echo", tmp_path, "fail model_invalid bad magic")) as b:
            results = await asyncio.gather(*(b.supervisor.acquire() for _ in range(5)), return_exceptions=True)
            assert [type(result) for result in results] == [ModelInvalid] * 5
            assert len({id(result) for result in results}) == 5
            assert b.num_spawns == 1

    run(test())


def test_a_load_that_failed_can_succeed_later(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(scripted_model("echo", tmp_path, "fail model_failed no memory")) as b:
            await b.load_fails(ModelFailed, "no memory")
            scripted_model("echo", tmp_path, "ready")
            assert await b.say("hello") == "hello"
            assert b.phase() == "ready"

    run(test())


def test_a_fault_of_ours_reaches_those_who_wait(caplog: pytest.LogCaptureFixture) -> None:
    async def broken_spawn(on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
        raise KeyError("mistake")

    async def test() -> None:
        time = FakeTime()
        tools = Tools(broken_spawn, time.clock, time.sleep, lambda *_: None)
        supervisor = Supervisor(fake_model("echo"), ipc.EngineOptions(), tools)
        with pytest.raises(ModelFailed):
            await supervisor.acquire()
        await supervisor.close()

    run(test())
    assert "mistake" in caplog.text


def test_closing_tells_those_who_wait_and_ends_the_load(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(scripted_model("echo", tmp_path, "mute")) as b:
            waiter = asyncio.create_task(b.supervisor.acquire())
            await until_loading(b)
            await b.supervisor.close()
            with pytest.raises(Draining):
                await waiter
            with pytest.raises(Draining):
                await b.supervisor.acquire()

    run(test())


@pytest.mark.parametrize("num_turns", [0, 1, 2, 3, 4, 5, 6, 8])
def test_closing_at_any_moment_of_a_start_leaves_nothing_behind(num_turns: int) -> None:
    async def test() -> None:
        async with bench() as b:
            waiter = asyncio.create_task(b.supervisor.acquire())
            for _ in range(num_turns):
                await asyncio.sleep(0)
            await b.supervisor.close()
            [result] = await asyncio.gather(waiter, return_exceptions=True)
            assert isinstance(result, Draining)

    run(test())


def test_closing_during_the_pause_before_a_restart_ends_it() -> None:
    async def test() -> None:
        async with bench(time=FakeTime(held=True)) as b:
            await b.crash()
            waiter = asyncio.create_task(b.supervisor.acquire())
            while not b.time.slept:
                await asyncio.sleep(0)
            await b.supervisor.close()
            with pytest.raises(Draining):
                await waiter
            assert b.num_spawns == 1

    run(test())


def test_a_retired_model_ends_with_its_last_stream_and_is_not_restarted() -> None:
    async def test() -> None:
        async with bench() as b:
            handle: Handle = await b.supervisor.acquire()
            stream = await handle.submit(generation("!stall 1"))
            await anext(stream)
            retiring = asyncio.create_task(b.supervisor.retire())
            await asyncio.sleep(0)
            assert await b.say("still here") == "still here"
            assert not retiring.done()
            with pytest.raises(WorkerLost, match="SIGSEGV"):
                await b.say("!crash SIGSEGV 1")
            await retiring
            assert b.num_spawns == 1
            await b.load_fails(WorkerLost, "replaced")

    run(test())


def test_retiring_a_model_that_loads_sends_those_who_wait_elsewhere(tmp_path: Path) -> None:
    async def test() -> None:
        async with bench(scripted_model("echo", tmp_path, "hold")) as b:
            waiter = asyncio.create_task(b.supervisor.acquire())
            await until_loading(b)
            await b.supervisor.retire()
            with pytest.raises(WorkerLost, match="replaced"):
                await waiter

    run(test())


def test_the_pause_doubles_up_to_half_a_minute_and_starts_anew_after_a_stable_minute() -> None:
    time = FakeTime()
    crashes = Crashes(time.clock)
    assert crashes.delay_seconds() == 0
    delays = []
    for lived_seconds in [0.0, 1, 59, 1, 1, 1, 1, 1, 60, 1]:
        crashes.record(lived_seconds)
        delays.append(crashes.delay_seconds())
    assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 0.5, 1]
    time.now += 0.75
    assert crashes.delay_seconds() == 0.25
    time.now += 10
    assert crashes.delay_seconds() == 0


def test_crashes_count_for_five_minutes() -> None:
    time = FakeTime()
    crashes = Crashes(time.clock)
    for _ in range(3):
        assert not crashes.too_many()
        crashes.record(0)
        time.now += 100
    assert not crashes.too_many()
    crashes.record(0)
    assert crashes.too_many()
    time.now += 99
    assert crashes.too_many()
    time.now += 1
    assert not crashes.too_many()
