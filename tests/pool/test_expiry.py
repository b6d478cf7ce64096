"""How long models stay that nobody uses."""

import asyncio
import os
import signal
from math import inf
from pathlib import Path

import pytest

from shimmy.pool.placement import Placement
from tests.fakes.clock import FakeTime
from tests.fakes.pool import fake_model, generation, run, scripted_model
from tests.pool.placed import placed, say


async def gone(placement: Placement, model_id: str) -> None:
    while placement.status(model_id).state != "unloaded":
        await asyncio.sleep(0.001)


def test_a_model_leaves_when_nobody_has_used_it_for_so_long() -> None:
    async def test() -> None:
        time = FakeTime(held=True)
        async with placed(time, keep_alive_seconds=300) as placement:
            handle = await placement.acquire(fake_model("a"))
            await say(handle, "hello")
            while not time.slept:
                await asyncio.sleep(0)
            assert placement.status("a").expires_in_seconds == 300
            time.now += 100
            assert placement.status("a").expires_in_seconds == 200
            await say(await placement.acquire(fake_model("a")), "hello again")
            assert placement.status("a").expires_in_seconds == 300
            time.let_go()
            await gone(placement, "a")
            await handle.ended.wait()
            assert placement.tally["expirations"] == 1

    run(test())


def test_one_in_use_does_not_leave_however_long_that_takes() -> None:
    async def test() -> None:
        time = FakeTime()
        async with placed(time, keep_alive_seconds=300) as placement:
            handle = await placement.acquire(fake_model("a"))
            stream = await handle.submit(generation("!stall 1"))
            await anext(stream)
            time.now += 10_000
            await placement.acquire(fake_model("b"))
            await gone(placement, "b")
            assert placement.status("a").expires_in_seconds == 300
            handle.abort(stream)
            await gone(placement, "a")

    run(test())


@pytest.mark.parametrize("keep_alive", [None, inf])
def test_without_a_time_it_stays(keep_alive: float | None) -> None:
    async def test() -> None:
        time = FakeTime()
        async with placed(time) as placement:
            await say(await placement.acquire(fake_model("a"), keep_alive), "hello")
            assert placement.status("a").expires_in_seconds is None
            await asyncio.sleep(0.02)
            assert placement.status("a").state == "ready"
            assert time.slept == []

    run(test())


def test_the_last_one_who_said_something_counts() -> None:
    async def test() -> None:
        time = FakeTime(held=True)
        async with placed(time, keep_alive_seconds=300) as placement:
            await say(await placement.acquire(fake_model("a"), 3600), "hello")
            assert placement.status("a").expires_in_seconds == 3600
            await say(await placement.acquire(fake_model("a")), "hello")
            assert placement.status("a").expires_in_seconds == 3600
            await say(await placement.acquire(fake_model("a"), inf), "hello")
            assert placement.status("a").expires_in_seconds is None
            await say(await placement.acquire(fake_model("a"), 0), "hello")
            await gone(placement, "a")

    run(test())


def test_with_no_time_at_all_it_leaves_with_its_last_request() -> None:
    async def test() -> None:
        async with placed() as placement:
            handle = await placement.acquire(fake_model("a"), 0)
            streams = [await handle.submit(generation("!stall 1")) for _ in range(2)]
            for stream in streams:
                await anext(stream)
            handle.abort(streams[0])
            await asyncio.sleep(0.01)
            assert placement.status("a").state == "ready"
            handle.abort(streams[1])
            await gone(placement, "a")

    run(test())


def test_one_that_is_pinned_stays() -> None:
    async def test() -> None:
        time = FakeTime()
        async with placed(time, keep_alive_seconds=1) as placement:
            placement.stay_of("a").pinned = True
            await say(await placement.acquire(fake_model("a"), 0), "hello")
            await asyncio.sleep(0.02)
            assert placement.status("a").state == "ready"
            assert placement.status("a").expires_in_seconds is None

    run(test())


def test_a_loaded_model_that_was_never_used_leaves_too() -> None:
    async def test() -> None:
        time = FakeTime()
        async with placed(time, keep_alive_seconds=60) as placement:
            await placement.acquire(fake_model("a"))
            await gone(placement, "a")
            assert time.slept == [60]

    run(test())


def test_one_whose_load_nobody_waited_for_to_the_end_leaves_too() -> None:
    async def test() -> None:
        async with placed(keep_alive_seconds=60) as placement:
            waiting = asyncio.create_task(placement.acquire(fake_model("a")))
            while placement.status("a").state != "loading":
                await asyncio.sleep(0)
            waiting.cancel()
            while placement.tally["loads"] == 0:
                await asyncio.sleep(0.001)
            await gone(placement, "a")

    run(test())


def test_one_that_came_back_after_a_crash_leaves_too() -> None:
    async def test() -> None:
        async with placed(keep_alive_seconds=inf) as placement:
            handle = await placement.acquire(fake_model("a"))
            stream = await handle.submit(generation("!stall 1"))
            await anext(stream)
            placement.stay_of("a").keep_alive_seconds = 60
            os.kill(int(handle.pid or 0), signal.SIGKILL)
            while placement.tally["loads"] < 2:
                await asyncio.sleep(0.001)
            await gone(placement, "a")

    run(test())


def test_a_new_version_leaves_as_its_model_was_told_to(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            await placement.acquire(scripted_model("m", tmp_path, "ready"))
            placement.stay_of("m").keep_alive_seconds = 60
            await placement.reload(scripted_model("m", tmp_path, "ready"))
            await gone(placement, "m")

    run(test())
