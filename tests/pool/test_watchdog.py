"""Who is ended for doing nothing, and who is not."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from itertools import count, repeat
from pathlib import Path

import pytest

from shimmy.core import ipc
from shimmy.core.errors import Unavailable, WorkerLost
from shimmy.core.events import Event, Failed, Finished
from shimmy.core.request import Text
from shimmy.hardware.sleep import Rest
from shimmy.pool import handle as handle_module
from shimmy.pool import suspects
from shimmy.pool.handle import Handle
from shimmy.pool.watchdog import NUM_LOOKS, Watchdog
from tests.fakes.pool import (
    answer,
    collect,
    fake_inference,
    fake_model,
    fake_spawn,
    generation,
    run,
    scripted_model,
    text_of,
)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what threads do")


# How often the main thread and all together were put off a CPU: so many looks at one whose main thread sleeps all the
# time while others wake, and at one that has long been waiting for a disk.
OTHERS_WAKE = [Rest(5, number, False) for number in range(5 * NUM_LOOKS)]
STILL = Rest(5, 7, False)
STILL_ON_DISK = Rest(5, 7, True)


def made(path: str = "/fake/m.gguf") -> Handle:
    return Handle("m", ipc.Load([path]), lambda fraction: None)


async def opened() -> Handle:
    handle = made()
    await handle.open(fake_spawn)
    return handle


async def looked_at(handle: Handle, looks: Iterator[Rest | None]) -> list[float]:
    """Lets a watchdog look until nothing is left to see, or to do. Returns how long it slept each time."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    def look(pid: int) -> Rest | None:
        assert pid == handle.pid
        return next(looks)

    watchdog = Watchdog(lambda: [handle], 300.0, sleep, look)
    watchdog.note_work()
    assert watchdog._task is not None
    await asyncio.wait([watchdog._task])
    # What was seen last was the end of it.
    assert isinstance(watchdog._task.exception(), RuntimeError | None)
    return slept


@pytest.mark.parametrize("still", [STILL, STILL_ON_DISK])
def test_a_worker_that_has_not_woken_in_so_many_looks_is_ended(still: Rest) -> None:
    async def test() -> None:
        handle = await opened()
        stream = await handle.submit(generation("!stall 1"))
        slept = await looked_at(handle, repeat(still, NUM_LOOKS + 1))
        assert slept[: NUM_LOOKS + 1] == [300.0 / NUM_LOOKS] * (NUM_LOOKS + 1)
        with pytest.raises(WorkerLost, match=r"\(it did nothing any more\)"):
            async for _ in stream:
                pass
        await handle.ended.wait()
        assert handle.has_crashed

    run(test())


@pytest.mark.parametrize(
    "looks",
    [
        [STILL] * NUM_LOOKS,
        [*[STILL] * NUM_LOOKS, *[Rest(6, 8, False)] * NUM_LOOKS],
        [*[STILL] * NUM_LOOKS, None, *[STILL] * NUM_LOOKS],
        [None] * 5 * NUM_LOOKS,
        [Rest(number, number, False) for number in range(5 * NUM_LOOKS)],
        [Rest(5, number, True) for number in range(5 * NUM_LOOKS)],
    ],
    ids=["not-long-enough", "woke", "ran", "runs", "wakes", "reads"],
)
def test_a_worker_that_has_woken_or_does_not_sleep_goes_on(looks: list[Rest | None]) -> None:
    async def test() -> None:
        handle = await opened()
        stream = await handle.submit(generation("!stall 1"))
        await looked_at(handle, iter(looks))
        release = await handle.submit(generation("!release"))
        events = [event async for batch in release for event in batch]
        assert isinstance(events[-1], Finished)
        handle.abort(stream)
        await handle.close(WorkerLost("over"))

    run(test())


def test_nobody_looks_at_a_worker_that_has_nothing_to_do() -> None:
    async def test() -> None:
        handle = await opened()
        assert len(await looked_at(handle, iter([]))) == 1
        await handle.close(WorkerLost("over"))

    run(test())


def test_a_worker_that_waits_for_a_reader_is_looked_at_when_that_one_goes_on() -> None:
    async def test() -> None:
        handle = await opened()
        stalled = await handle.submit(generation("!stall 1"))
        flood = await handle.submit(generation("!flood 200"))
        while not flood.is_paused:
            await asyncio.sleep(0.001)

        async def read() -> None:
            for _ in range(5 * NUM_LOOKS):
                await asyncio.sleep(0)
            assert flood.is_paused
            while not isinstance((await anext(flood))[-1], Finished | Failed):
                pass
            is_read.set()

        is_read = asyncio.Event()
        reading = asyncio.create_task(read())
        # It wakes for the reader, and then never.
        await looked_at(handle, (STILL if is_read.is_set() else Rest(number, number, False) for number in count()))
        await reading
        with pytest.raises(WorkerLost, match="it did nothing any more"):
            async for _ in stalled:
                pass
        await handle.close(WorkerLost("over"))

    run(test())


def test_a_worker_that_has_requests_may_not_sleep_because_others_of_its_threads_wake() -> None:
    async def test() -> None:
        handle = await opened()
        stream = await handle.submit(generation("!stall 1"))
        await looked_at(handle, iter(OTHERS_WAKE))
        with pytest.raises(WorkerLost, match="it did nothing any more"):
            async for _ in stream:
                pass
        await handle.ended.wait()

    run(test())


@pytest.mark.parametrize("still", [STILL, STILL_ON_DISK])
def test_a_load_that_does_nothing_any_more_fails_whoever_waits(tmp_path: Path, still: Rest) -> None:
    async def test() -> None:
        handle = made(scripted_model("m", tmp_path, "mute").paths[0])
        opening = asyncio.create_task(handle.open(fake_spawn))
        while handle.pid is None:
            await asyncio.sleep(0.001)
        await looked_at(handle, repeat(still, NUM_LOOKS + 1))
        with pytest.raises(Unavailable, match="'m' cannot be loaded now: its worker process did nothing any more"):
            await opening
        await handle.ended.wait()
        assert not handle.has_crashed and not handle.has_work

    run(test())


@pytest.mark.parametrize("looks", [OTHERS_WAKE, [STILL_ON_DISK] * NUM_LOOKS, [None] * 5 * NUM_LOOKS])
def test_a_load_that_does_something_goes_on(tmp_path: Path, looks: list[Rest | None]) -> None:
    async def test() -> None:
        model = scripted_model("m", tmp_path, "hold")
        handle = made(model.paths[0])
        opening = asyncio.create_task(handle.open(fake_spawn))
        while handle.pid is None:
            await asyncio.sleep(0.001)
        await looked_at(handle, iter(looks))
        Path(f"{model.paths[0]}.go").touch()
        await opening
        await handle.close(WorkerLost("over"))

    run(test())


def test_a_question_that_nobody_works_at_ends_the_worker() -> None:
    async def test() -> None:
        handle = await opened()
        asking = asyncio.create_task(handle.ask(ipc.CountTokens(Text("!hang"))))
        while not handle.has_work:
            await asyncio.sleep(0)
        assert not handle.has_requests
        await looked_at(handle, repeat(STILL, NUM_LOOKS + 1))
        with pytest.raises(WorkerLost, match="it did nothing any more"):
            await asking
        await handle.ended.wait()

    run(test())


def test_questions_that_other_threads_answer_end_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle_module, "CLOSE_SECONDS", 0.0)

    async def test() -> None:
        handle = await opened()
        asking = asyncio.create_task(handle.ask(ipc.CountTokens(Text("!hang"))))
        while not handle.has_work:
            await asyncio.sleep(0)
        await looked_at(handle, iter(OTHERS_WAKE))
        assert handle.state is handle_module.State.READY
        await handle.close(WorkerLost("over"))
        with pytest.raises(WorkerLost, match="over"):
            await asking

    run(test())


@needs_linux
def test_a_load_that_hangs_is_tried_once_more_and_holds_nobody_up(tmp_path: Path) -> None:
    async def test() -> None:
        models = scripted_model("mute", tmp_path, "mute"), fake_model("echo")
        async with fake_inference(*models, hang_seconds=0.5) as inference:
            with pytest.raises(Unavailable, match="did nothing any more"):
                await answer(inference, "hello", model="mute")
            assert inference.models.tally["failed_loads"] == 2
            assert await answer(inference, "hello") == "hello"

    run(test())


@needs_linux
def test_a_worker_that_hangs_over_a_question_is_replaced() -> None:
    async def test() -> None:
        async with fake_inference(hang_seconds=0.5) as inference:
            asking = asyncio.create_task(inference.count_tokens("echo", Text("!hang")))
            while not inference.models.tally["crashes"]:
                await asyncio.sleep(0.01)
            # It would be asked once more.
            asking.cancel()
            assert await inference.count_tokens("echo", Text("four")) == 4

    run(test())


@needs_linux
def test_a_worker_that_hangs_is_replaced_and_its_streams_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "ALONE_SECONDS", 0.05)

    async def test() -> None:
        async with fake_inference(hang_seconds=0.5) as inference:
            events: list[Event] = []
            with pytest.raises(WorkerLost, match="it did nothing any more"):
                async for batch in inference.generate(generation("!stall 2")):
                    events += batch
            assert text_of(events) == "w0 w1"
            assert await answer(inference, "hello") == "hello"
            assert inference.models.tally["crashes"] == 1

    run(test())


@needs_linux
def test_a_worker_that_is_stopped_for_longer_goes_on_afterwards() -> None:
    async def test() -> None:
        async with fake_inference(hang_seconds=0.2) as inference:
            pid = int(await answer(inference, "!pid"))
            os.kill(pid, signal.SIGSTOP)
            asking = asyncio.create_task(collect(inference, generation("hello")))
            await asyncio.sleep(1.0)
            os.kill(pid, signal.SIGCONT)
            assert isinstance((await asking)[-1], Finished)
            assert int(await answer(inference, "!pid")) == pid

    run(test())


@needs_linux
def test_the_end_of_the_server_ends_the_watch() -> None:
    async def test() -> None:
        async with fake_inference(hang_seconds=600) as inference:
            assert await answer(inference, "hello") == "hello"
            before = len(asyncio.all_tasks())
            assert before > 1
        assert len(asyncio.all_tasks()) == 1

    run(test())
