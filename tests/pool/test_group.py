"""Several workers of one model: who gets a request, who comes back, who makes room, and that they leave together."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from shimmy.core.errors import ModelFailed, WorkerLost
from shimmy.hardware import memory as memory_module
from shimmy.models.listing import Model
from shimmy.pool import group
from shimmy.pool.handle import Handle
from shimmy.pool.placement import Placement
from shimmy.pool.process import OnEnd, OnMessage, WorkerProcess
from shimmy.server.inference import Inference
from tests.fakes.clock import FakeTime
from tests.fakes.pool import (
    answer,
    children,
    collect,
    fake_inference,
    fake_model,
    fake_spawn,
    generation,
    run,
    scripted_model,
)
from tests.pool.placed import placed, say
from tests.pool.test_room import GB, big


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fake worker really takes says nothing of what a model would."""
    monkeypatch.setattr(memory_module, "anonymous_bytes", lambda pid: None)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def num_workers(placement: Placement, model_id: str = "m") -> int:
    return placement.status(model_id).num_workers


async def filled(placement: Placement, model: Model, num_wanted: int) -> None:
    """The model with all of its workers."""
    await placement.acquire(model)
    await until(lambda: num_workers(placement, model.id) == num_wanted)


async def stalled(handle: Handle) -> None:
    """Gives it a request that does not end."""
    await anext(await handle.submit(generation("!stall 1")))


def test_the_first_answers_before_the_others_are_loaded() -> None:
    async def test() -> None:
        seen: list[float] = []
        async with placed(num_workers=3, on_progress=lambda id, fraction: seen.append(fraction)) as placement:
            assert await say(await placement.acquire(fake_model("m")), "hello") == "hello"
            await until(lambda: num_workers(placement) == 3)
            assert len(children()) == placement.tally["loads"] == 3
            assert [status.id for status in placement.statuses()] == ["m"]
            # Whoever watches the model load sees one load.
            assert seen.count(1.0) == 1

    run(test())


def test_a_request_goes_to_the_worker_with_the_fewest_and_else_to_the_last_one_used() -> None:
    async def test() -> None:
        model = fake_model("m")
        async with placed(num_workers=2) as placement:
            await filled(placement, model, 2)
            one = await placement.acquire(model)
            for _ in range(3):
                assert await say(await placement.acquire(model), "hello") == "hello"
                assert await placement.acquire(model) is one
            await stalled(one)
            two = await placement.acquire(model)
            assert two is not one
            assert await say(two, "hello") == "hello"
            assert await placement.acquire(model) is two
            await stalled(two)
            assert placement.num_running("m") == 2
            # Both have one: it is the other's that was begun last.
            assert await placement.acquire(model) is two

    run(test())


def test_one_that_dies_comes_back_while_the_others_answer() -> None:
    async def test() -> None:
        time = FakeTime(held=True)
        model = fake_model("m")
        async with placed(time, num_workers=2) as placement:
            await filled(placement, model, 2)
            victim = await placement.acquire(model)
            with pytest.raises(WorkerLost):
                await say(victim, "!crash SIGKILL 1")
            assert placement.status("m").state == "ready"
            for _ in range(3):
                other = await placement.acquire(model)
                assert other is not victim
                assert await say(other, "hello") == "hello"
            assert num_workers(placement) == 1
            time.let_go()
            await until(lambda: num_workers(placement) == 2)
            assert (placement.tally["crashes"], placement.tally["loads"]) == (1, 3)

    run(test())


def test_a_request_that_has_no_text_yet_is_run_again_by_another_worker() -> None:
    async def test() -> None:
        time = FakeTime(held=True)
        async with fake_inference("echo", clock=time.clock, sleep=time.sleep, num_workers=2) as inference:
            await inference.models.preload("echo")
            await until(lambda: inference.models.statuses()[0].num_workers == 2)
            request = asyncio.create_task(collect(inference, generation("!stall 0")))
            await until(lambda: busy_pid(inference) is not None)
            pid = busy_pid(inference)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await until(lambda: busy_pid(inference) not in (None, pid))
            await answer(inference, "!release")
            await request
            assert inference.models.tally["loads"] == 2

    run(test())


def busy_pid(inference: Inference) -> int | None:
    """Of the worker that has a request."""
    workers = inference._placement._groups["echo"].workers
    handles = (each._handle for each in workers if each.num_running)
    return next((handle.pid for handle in handles if handle is not None), None)


@pytest.mark.parametrize("failing", [3, 4])
def test_if_all_die_requests_are_answered_by_whichever_comes_back(failing: int) -> None:
    """One of the two cannot be started again."""

    async def test() -> None:
        time = FakeTime(held=True)
        num_spawns = 0

        async def flaky(on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
            nonlocal num_spawns
            num_spawns += 1
            if num_spawns == failing:
                raise BlockingIOError(11, "no more processes")
            return await fake_spawn(on_message, on_end)

        inside = fake_inference("echo", spawn=flaky, clock=time.clock, sleep=time.sleep, num_workers=2)
        async with inside as inference:
            await inference.models.preload("echo")
            await until(lambda: inference.models.statuses()[0].num_workers == 2)
            for pid in children():
                os.kill(pid, signal.SIGKILL)
            await until(lambda: inference.models.tally["crashes"] == 2)
            answers = [asyncio.create_task(answer(inference, "hello")) for _ in range(4)]
            await asyncio.sleep(0.01)
            time.let_go()
            assert await asyncio.gather(*answers) == ["hello"] * 4
            await until(lambda: num_spawns >= 4)

    run(test())


def test_they_leave_together_and_only_when_all_are_idle() -> None:
    async def test() -> None:
        model = fake_model("m")
        async with placed(num_workers=2) as placement:
            await filled(placement, model, 2)
            handle = await placement.acquire(model)
            stream = await handle.submit(generation("!stall 1"))
            assert not await placement.unload("m")
            assert len(children()) == 2
            handle.abort(stream)
            assert await placement.unload("m")
            assert not children()
            assert placement.status("m").state == "unloaded"

    run(test())


def test_a_model_that_nobody_uses_expires_with_all_of_its_workers() -> None:
    async def test() -> None:
        time = FakeTime()
        model = fake_model("m")
        async with placed(time, num_workers=2, keep_alive_seconds=300) as placement:
            await placement.acquire(model)
            await until(lambda: placement.tally["expirations"] == 1)
            await until(lambda: not children())

    run(test())


def test_what_is_not_free_is_not_taken_from_others() -> None:
    """Each worker counts; another model leaves for the first one only, and all of them leave for another model."""

    async def test() -> None:
        time = FakeTime()
        a, b = big("a"), big("b")
        async with placed(time, num_workers=2, memory_limit_bytes=3 * GB + (150 << 20)) as placement:
            await filled(placement, a, 2)
            one = placement.taken_bytes("a") // 2
            assert one > GB
            assert await say(await placement.acquire(b), "hello") == "hello"
            await until(lambda: placement._groups["b"]._fill_again_at > time.now)
            assert (num_workers(placement, "a"), num_workers(placement, "b")) == (2, 1)
            assert placement.usage().taken_bytes == 3 * one and len(children()) == 3
            # Once there is room it is taken, but not looked for with each request.
            assert await placement.unload("a")
            await placement.acquire(b)
            await asyncio.sleep(0.05)
            assert num_workers(placement, "b") == 1
            time.now += group.RETRY_SECONDS
            await filled(placement, b, 2)
            huge = big("huge", 2 * GB)
            assert await say(await placement.acquire(huge), "hello") == "hello"
            assert [status.id for status in placement.statuses()] == ["huge"]
            assert placement.tally["evictions"] == 1

    run(test())


def test_a_new_version_needs_room_for_one_worker_beside_the_old_ones() -> None:
    async def test() -> None:
        async with placed(num_workers=2, memory_limit_bytes=3 * GB + (150 << 20)) as placement:
            await filled(placement, big("m"), 2)
            before = children()
            await placement.reload(big("m"))
            await until(lambda: num_workers(placement) == 2 and not before & children())
            assert len(children()) == 2
            assert placement.taken_bytes("m") < 3 * GB

    run(test())


def test_who_loads_a_model_is_told_when_it_has_all_the_workers_that_there_is_room_for() -> None:
    async def test() -> None:
        async with placed(num_workers=4, memory_limit_bytes=3 * GB + (150 << 20)) as placement:
            await placement.reload(big("m"))
            assert num_workers(placement) == 3

    run(test())


def test_who_asks_for_all_workers_does_not_wait_until_they_are_tried_again() -> None:
    async def test() -> None:
        async with placed(num_workers=2, memory_limit_bytes=3 * GB + (150 << 20)) as placement:
            await filled(placement, big("a"), 2)
            await placement.acquire(big("b"))
            await placement.filled("b")
            assert num_workers(placement, "b") == 1
            assert await placement.unload("a")
            await placement.filled("b")
            assert num_workers(placement, "b") == 2

    run(test())


def test_who_loads_a_model_does_not_wait_for_workers_of_one_that_is_unloaded(tmp_path: Path) -> None:
    async def test() -> None:
        model = scripted_model("m", tmp_path, "ready")
        async with placed(num_workers=2) as placement:
            await placement.acquire(model)
            scripted_model("m", tmp_path, "hold")
            loading = asyncio.create_task(placement._groups["m"].filled())
            await until(lambda: len(children()) == 2)
            assert not loading.done()
            assert await placement.unload("m")
            await loading

    run(test())


def test_how_many_can_be_said_of_one_model_and_changed() -> None:
    async def test() -> None:
        a, b = fake_model("a"), fake_model("b")
        async with placed() as placement:
            placement.want_workers("a", 3)
            await filled(placement, a, 3)
            await placement.acquire(b)
            placement.want_workers("a", 1)
            await placement.reload(a)
            await until(lambda: len(children()) == 2)
            assert (num_workers(placement, "a"), num_workers(placement, "b")) == (1, 1)

    run(test())


def test_a_model_that_cannot_be_loaded_fails_once_for_all(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed(num_workers=3) as placement:
            with pytest.raises(ModelFailed):
                await placement.acquire(scripted_model("m", tmp_path, "fail model_failed no memory"))
            assert placement.tally["failed_loads"] == 1
            assert placement.status("m").state == "failed" and num_workers(placement) == 0

    run(test())


def test_workers_that_still_load_do_not_keep_the_model(tmp_path: Path) -> None:
    async def test() -> None:
        model = scripted_model("m", tmp_path, "ready")
        async with placed(num_workers=2) as placement:
            await placement.acquire(model)
            scripted_model("m", tmp_path, "hold")
            await until(lambda: len(children()) == 2)
            assert await placement.unload("m")
            assert not children()

    run(test())
