"""Who is ended for doing nothing, and who is not."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from itertools import count

import pytest

from shimmy.core import ipc
from shimmy.core.errors import WorkerLost
from shimmy.core.events import Event, Failed, Finished
from shimmy.pool import suspects
from shimmy.pool.handle import Handle
from shimmy.pool.watchdog import NUM_LOOKS, Watchdog
from tests.fakes.pool import answer, collect, fake_inference, fake_spawn, generation, run, text_of

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what threads do")


async def opened() -> Handle:
    handle = Handle("m", ipc.Load(["/fake/m.gguf"]), lambda fraction: None)
    await handle.open(fake_spawn)
    return handle


async def looked_at(handle: Handle, looks: Iterator[int | None]) -> list[float]:
    """Lets a watchdog look until nothing is left to see, or to do. Returns how long it slept each time."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.sleep(0)

    def look(pid: int) -> int | None:
        assert pid == handle.pid
        return next(looks)

    watchdog = Watchdog(lambda: [handle], 300.0, sleep, look)
    watchdog.note_work()
    assert watchdog._task is not None
    await asyncio.wait([watchdog._task])
    # What was seen last was the end of it.
    assert isinstance(watchdog._task.exception(), RuntimeError | None)
    return slept


def test_a_worker_that_has_not_woken_in_so_many_looks_is_ended() -> None:
    async def test() -> None:
        handle = await opened()
        stream = await handle.submit(generation("!stall 1"))
        slept = await looked_at(handle, iter([5] * (NUM_LOOKS + 1)))
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
        [5] * NUM_LOOKS,
        [*[5] * NUM_LOOKS, 6, *[6] * (NUM_LOOKS - 1)],
        [*[5] * NUM_LOOKS, None, *[5] * NUM_LOOKS],
        [None] * 5 * NUM_LOOKS,
        list(range(5 * NUM_LOOKS)),
    ],
    ids=["not-long-enough", "woke", "ran", "runs", "wakes"],
)
def test_a_worker_that_has_woken_or_does_not_sleep_goes_on(looks: list[int | None]) -> None:
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
        await looked_at(handle, (-1 if is_read.is_set() else number for number in count()))
        await reading
        with pytest.raises(WorkerLost, match="it did nothing any more"):
            async for _ in stalled:
                pass
        await handle.close(WorkerLost("over"))

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
