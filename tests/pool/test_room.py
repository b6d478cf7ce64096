"""Who may be loaded, and who has to leave: models of so many gigabytes, in fake workers that take nothing."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shimmy.core.errors import InsufficientMemory
from shimmy.hardware import memory as memory_module
from shimmy.hardware.memory import Memory
from shimmy.models.listing import Model
from shimmy.pool import room
from shimmy.pool.placement import Placement
from shimmy.pool.stay import Priority
from tests.fakes.clock import FakeTime
from tests.fakes.pool import children, fake_model, generation, run, scripted_model
from tests.pool.placed import placed, say

GB = 1 << 30
# With what the processes take, which is little.
ROOM_FOR_TWO = 2 * GB + (100 << 20)


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fake worker really takes says nothing of what a model would."""
    monkeypatch.setattr(memory_module, "anonymous_bytes", lambda pid: None)


def big(id: str, num_bytes: int = GB) -> Model:
    return msgspec.structs.replace(fake_model(id), size_bytes=num_bytes)


def loaded(placement: Placement) -> list[str]:
    return [status.id for status in placement.statuses() if status.state == "ready"]


async def use(placement: Placement, model: Model, time: FakeTime | None = None) -> None:
    if time is not None:
        time.now += 1
    assert await say(await placement.acquire(model), "hello") == "hello"


def test_the_one_that_was_used_longest_ago_leaves() -> None:
    async def test() -> None:
        time = FakeTime()
        async with placed(time, memory_limit_bytes=ROOM_FOR_TWO) as placement:
            for id in ("a", "b", "a", "c"):
                await use(placement, big(id), time)
            assert loaded(placement) == ["a", "c"]
            assert len(children()) == 2
            assert placement.tally["evictions"] == 1
            await use(placement, big("b"), time)
            assert loaded(placement) == ["b", "c"]

    run(test())


def test_a_large_one_has_several_leave_but_no_more_than_it_needs() -> None:
    async def test() -> None:
        time = FakeTime()
        async with placed(time, memory_limit_bytes=3 * ROOM_FOR_TWO // 2) as placement:
            for id in "abc":
                await use(placement, big(id), time)
            await use(placement, big("large", 2 * GB), time)
            assert loaded(placement) == ["c", "large"]

    run(test())


def test_a_lower_priority_leaves_first_and_what_is_pinned_never() -> None:
    async def test() -> None:
        time = FakeTime()
        async with placed(time, memory_limit_bytes=3 * ROOM_FOR_TWO // 2) as placement:
            placement.stay_of("a").pinned = True
            placement.stay_of("b").priority = Priority.HIGH
            placement.stay_of("d").priority = Priority.LOW
            for id in "abc":
                await use(placement, big(id), time)
            await use(placement, big("d"), time)
            assert loaded(placement) == ["a", "b", "d"]
            await use(placement, big("e"), time)
            assert loaded(placement) == ["a", "b", "e"]
            with pytest.raises(InsufficientMemory):
                await placement.acquire(big("huge", 5 * GB // 2))
            assert loaded(placement) == ["a", "b", "e"]
            await use(placement, big("large", 3 * GB // 2), time)
            assert loaded(placement) == ["a", "large"]

    run(test())


def test_what_can_never_fit_is_refused_at_once_and_nobody_leaves_for_it() -> None:
    async def test() -> None:
        async with placed(memory_limit_bytes=ROOM_FOR_TWO) as placement:
            stream = await (await placement.acquire(big("a"))).submit(generation("!stall 1"))
            with pytest.raises(InsufficientMemory, match=r"'huge' needs 3.1 GiB of memory, and .* are free") as raised:
                await placement.acquire(big("huge", 3 * GB))
            assert raised.value.details["needed_bytes"] > 3 * GB
            assert raised.value.details["limit_bytes"] == ROOM_FOR_TWO
            assert 0 < raised.value.details["free_bytes"] < 2 * GB
            assert loaded(placement) == ["a"]
            assert placement.status("huge").state == "failed"
            assert stream.over is False

    run(test())


def test_who_needs_the_room_of_one_in_use_waits_for_its_end(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed(memory_limit_bytes=ROOM_FOR_TWO) as placement:
            busy = await placement.acquire(big("busy", 2 * GB))
            stream = await busy.submit(generation("!stall 1"))
            await anext(stream)
            waiting = asyncio.create_task(placement.acquire(big("next", 2 * GB)))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            # Meanwhile the loaded one is as quick as ever.
            assert await say(await placement.acquire(big("busy", 2 * GB)), "hello") == "hello"
            busy.abort(stream)
            assert await say(await waiting, "hello") == "hello"
            assert loaded(placement) == ["next"]

    run(test())


def test_who_waits_for_room_holds_up_nobody_who_fits() -> None:
    async def test() -> None:
        time = FakeTime()
        async with placed(time, memory_limit_bytes=ROOM_FOR_TWO) as placement:
            stream = await (await placement.acquire(big("busy"))).submit(generation("!stall 1"))
            await anext(stream)
            waiting = asyncio.create_task(placement.acquire(big("large", 2 * GB)))
            await asyncio.sleep(0.05)
            handle = await placement.acquire(big("small", GB // 2))
            held = await handle.submit(generation("!stall 1"))
            await anext(held)
            os.kill(int(handle.pid or 0), signal.SIGKILL)
            while placement.tally["loads"] < 3 or loaded(placement) != ["busy", "small"]:
                await asyncio.sleep(0.001)
            assert not waiting.done()
            (await placement.acquire(big("busy"))).abort(stream)
            assert await say(await waiting, "hello") == "hello"
            assert loaded(placement) == ["large"]

    run(test())


@pytest.mark.parametrize(
    ("limit", "first", "last"),
    [
        (ROOM_FOR_TWO, "raise --memory-budget or ", "$"),
        (None, "", "; or allow more with --memory-budget; weights are "),
    ],
)
def test_a_refusal_says_what_can_be_done(limit: int | None, first: str, last: str) -> None:
    async def test() -> None:
        async with placed(memory_limit_bytes=limit, measure=lambda: Memory(3 * GB, 2 * GB)) as placement:
            with pytest.raises(
                InsufficientMemory, match=rf" are free: {first}serve with a smaller --ctx{last}"
            ) as told:
                await placement.acquire(big("huge", 3 * GB))
            assert told.value.details["is_lasting"] is (limit is not None)

    run(test())


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "WAIT_SECONDS", 0.05)

    async def test() -> None:
        async with placed(memory_limit_bytes=ROOM_FOR_TWO) as placement:
            stream = await (await placement.acquire(big("busy", 2 * GB))).submit(generation("!stall 1"))
            await anext(stream)
            text = "raise --memory-budget, unload other models, or serve with a smaller --ctx$"
            with pytest.raises(InsufficientMemory, match=text) as told:
                await placement.acquire(big("next", 2 * GB))
            assert not told.value.details["is_lasting"]
            assert loaded(placement) == ["busy"]

    run(test())


def test_a_version_is_not_loaded_where_there_is_no_room_beside_the_old_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed(memory_limit_bytes=ROOM_FOR_TWO) as placement:
            versions = [
                msgspec.structs.replace(scripted_model("m", tmp_path, "ready"), size_bytes=size)
                for size in (GB, 3 * GB // 2, GB)
            ]
            old = await placement.acquire(versions[0])
            await use(placement, big("other", GB // 2))
            with pytest.raises(InsufficientMemory, match="the model stays as it was loaded"):
                await placement.reload(versions[1])
            assert await placement.acquire(versions[1]) is old
            await placement.reload(versions[2])
            assert loaded(placement) == ["m"]

    run(test())


def test_a_model_that_is_being_loaded_keeps_its_room(tmp_path: Path) -> None:
    slow = msgspec.structs.replace(scripted_model("slow", tmp_path, "hold"), size_bytes=2 * GB)

    async def test() -> None:
        async with placed(memory_limit_bytes=ROOM_FOR_TWO) as placement:
            loading = asyncio.create_task(placement.acquire(slow))
            while placement.status("slow").fraction == 0:
                await asyncio.sleep(0.001)
            waiting = asyncio.create_task(placement.acquire(big("next")))
            await asyncio.sleep(0.05)
            assert placement.usage() == (ROOM_FOR_TWO, placement.taken_bytes("slow"))
            assert not waiting.done() and len(children()) == 1
            Path(f"{slow.paths[0]}.go").touch()
            await loading
            await waiting
            assert "next" in loaded(placement)

    run(test())


def test_a_model_that_fails_gives_its_room_back(tmp_path: Path) -> None:
    broken = msgspec.structs.replace(scripted_model("broken", tmp_path, "crash SIGABRT"), size_bytes=2 * GB)

    async def test() -> None:
        async with placed(memory_limit_bytes=ROOM_FOR_TWO) as placement:
            await asyncio.gather(placement.acquire(broken), return_exceptions=True)
            assert placement.usage().taken_bytes == 0
            await use(placement, big("a", 2 * GB))

    run(test())


@pytest.mark.parametrize(("available", "fits"), [(4 * GB, True), (2 * GB, False)])
def test_without_a_limit_it_is_what_the_system_has_left(available: int, fits: bool) -> None:
    async def test() -> None:
        async with placed(measure=lambda: Memory(16 * GB, available)) as placement:
            results = await asyncio.gather(placement.acquire(big("a", 2 * GB)), return_exceptions=True)
            assert isinstance(results[0], InsufficientMemory) is not fits

    run(test())


def test_where_the_system_does_not_say_everything_is_tried() -> None:
    async def test() -> None:
        async with placed(measure=lambda: None) as placement:
            await use(placement, big("a", 1 << 60))
            assert placement.usage().limit_bytes is None

    run(test())


def test_what_a_worker_really_takes_counts_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is estimated too low, and so leaves; the second time it is known."""
    taken: Callable[[int], int] = lambda pid: 3 * GB // 2  # noqa: E731
    monkeypatch.setattr(memory_module, "anonymous_bytes", taken)

    async def test() -> None:
        time = FakeTime()
        async with placed(time, memory_limit_bytes=ROOM_FOR_TWO) as placement:
            await use(placement, big("a"), time)
            assert placement.taken_bytes("a") == 3 * GB // 2
            await use(placement, big("b"), time)
            assert loaded(placement) == ["b"]
            with pytest.raises(InsufficientMemory, match="needs 1.5 GiB"):
                placement.stay_of("b").pinned = True
                await placement.acquire(big("a"))

    run(test())
