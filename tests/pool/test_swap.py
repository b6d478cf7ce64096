import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from shimmy.core.errors import Draining, ModelFailed, ModelInvalid, ShimmyError, WorkerLost
from shimmy.core.modelfile import Own
from shimmy.models.listing import Model
from shimmy.pool import swap
from shimmy.pool.handle import Handle, State
from shimmy.pool.placement import Placement
from shimmy.pool.swap import SwitchStatus
from tests.fakes.pool import children, fake_model, generation, run, scripted_model
from tests.pool.placed import placed, say


def switch_of(placement: Placement, model_id: str = "m") -> SwitchStatus:
    status = placement.status(model_id).switch
    assert status is not None
    return status


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def until_over(placement: Placement) -> SwitchStatus:
    await until(lambda: switch_of(placement).state in ("done", "failed"))
    return switch_of(placement)


def test_the_old_version_answers_until_the_new_one_can(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            old = await placement.acquire(scripted_model("m", tmp_path, "ready"))
            stream = await old.submit(generation("!stall 1"))
            await anext(stream)
            replaced = scripted_model("m", tmp_path, "hold")
            for _ in range(3):
                assert await placement.acquire(replaced) is old
            assert switch_of(placement) == SwitchStatus("loading")
            assert placement.status("m").state == "ready"
            Path(f"{replaced.paths[0]}.go").touch()
            assert await until_over(placement) == SwitchStatus("done")
            new = await placement.acquire(replaced)
            assert new is not old
            assert await say(new, "hello") == "hello"
            assert (old.state, len(children())) == (State.READY, 2)
            assert [status.id for status in placement.statuses()] == ["m"]
            old.abort(stream)
            await old.ended.wait()
            assert old.exit is not None and old.exit.returncode == 0

    run(test())


def test_a_request_that_has_its_handle_is_not_lost_to_the_switch(tmp_path: Path) -> None:
    """However often the model is replaced, and whenever a request comes."""
    num_answers = 0

    async def ask_on(placement: Placement, models: list[Model]) -> None:
        nonlocal num_answers
        while models:
            handle = await placement.acquire(models[-1])
            assert await say(handle, "hello") == "hello"
            num_answers += 1

    async def test() -> None:
        models = [scripted_model("m", tmp_path, "ready")]
        async with placed() as placement:
            asking = [asyncio.create_task(ask_on(placement, models)) for _ in range(8)]
            await until(lambda: num_answers > 8)
            for _ in range(3):
                models.append(scripted_model("m", tmp_path, "ready"))
                await placement.reload(models[-1])
                wanted = num_answers + 8
                while num_answers < wanted:
                    await asyncio.sleep(0.001)
            models.clear()
            await asyncio.gather(*asking)
            await until(lambda: len(children()) == 1)

    run(test())


@pytest.mark.parametrize(
    ("load", "error", "reason"),
    [
        ("fail model_invalid bad magic", ModelInvalid, "bad magic"),
        ("crash SIGSEGV", ModelFailed, "SIGSEGV"),
        ("answer !crash SIGABRT 0", WorkerLost, "SIGABRT"),
        ("answer !fail model_failed no such tensor", ModelFailed, "no such tensor"),
        ("answer !nan", ModelFailed, "not a number"),
    ],
    ids=["refused", "crash", "crash-when-tried", "fail-when-tried", "nonsense"],
)
def test_a_version_that_is_no_good_leaves_the_old_one_in_place(
    tmp_path: Path, load: str, error: type[ShimmyError], reason: str
) -> None:
    async def test() -> None:
        async with placed() as placement:
            old = await placement.acquire(scripted_model("m", tmp_path, "ready"))
            broken = scripted_model("m", tmp_path, load)
            assert await placement.acquire(broken) is old
            failed = await until_over(placement)
            assert failed.state == "failed" and reason in (failed.reason or "")
            await until(lambda: len(children()) == 1)
            assert await say(await placement.acquire(broken), "hello") == "hello"
            # It is not tried again and again, but whoever asks for that learns why it fails.
            assert len(children()) == 1
            with pytest.raises(error, match=f"{reason}.*; the model stays as it was loaded"):
                await placement.reload(broken)
            back = scripted_model("m", tmp_path, "ready")
            await placement.reload(back)
            assert switch_of(placement) == SwitchStatus("done")
            assert await placement.acquire(back) is not old

    run(test())


def test_a_version_that_says_nothing_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "VALIDATION_SECONDS", 0.05)

    async def test() -> None:
        async with placed() as placement:
            await placement.acquire(scripted_model("m", tmp_path, "ready"))
            with pytest.raises(ModelFailed, match="said nothing within 0.05 s"):
                await placement.reload(scripted_model("m", tmp_path, "answer !stall 0"))
            assert len(children()) == 1

    run(test())


def test_a_file_that_cannot_be_served_any_more_is_not_even_loaded(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            old = await placement.acquire(scripted_model("m", tmp_path, "ready"))
            (tmp_path / "broken.gguf").write_bytes(b"no model")
            broken = fake_model("m", path=tmp_path / "broken.gguf", invalid="bad magic")
            assert await placement.acquire(broken) is old
            assert "bad magic" in ((await until_over(placement)).reason or "")
            os.kill(int(await say(old, "!pid")), signal.SIGKILL)
            await old.ended.wait()
            with pytest.raises(ModelInvalid, match="bad magic"):
                await placement.acquire(broken)

    run(test())


def test_a_reload_needs_no_other_file_and_several_at_once_are_one(tmp_path: Path) -> None:
    model = scripted_model("m", tmp_path, "ready")

    async def test() -> None:
        async with placed() as placement:
            await placement.reload(model)
            old = await placement.acquire(model)
            await asyncio.gather(*(placement.reload(model) for _ in range(5)))
            assert await placement.acquire(model) is not old
            await old.ended.wait()
            assert len(children()) == 1

    run(test())


def test_an_encoder_is_tried_with_a_vector(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            model = scripted_model("m", tmp_path, "encoder")
            await placement.reload(model)
            old = await placement.acquire(model)
            await placement.reload(model)
            assert await placement.acquire(model) is not old

    run(test())


def test_another_context_of_the_same_file_is_another_version(tmp_path: Path) -> None:
    """What else comes with a model is of requests, not of workers."""

    async def test() -> None:
        async with placed() as placement:
            model = scripted_model("m", tmp_path, "ready")
            old = await placement.acquire(model)
            placement.follow(msgspec.structs.replace(model, own=Own(system="Be Mario.")))
            assert placement.status("m").switch is None
            shorter = msgspec.structs.replace(model, own=Own(context_length=512))
            placement.follow(shorter)
            assert await until_over(placement) == SwitchStatus("done")
            assert await placement.acquire(shorter) is not old

    run(test())


def test_a_file_that_changes_during_the_switch_begins_another(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            old = await placement.acquire(scripted_model("m", tmp_path, "ready"))
            assert await placement.acquire(scripted_model("m", tmp_path, "mute")) is old
            await until(lambda: len(children()) == 2)
            newest = scripted_model("m", tmp_path, "ready")
            assert await placement.acquire(newest) is old
            assert await until_over(placement) == SwitchStatus("done")
            assert await say(await placement.acquire(newest), "hello") == "hello"
            await until(lambda: len(children()) == 1)

    run(test())


def test_when_the_old_worker_dies_requests_wait_for_the_new_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            old = await placement.acquire(scripted_model("m", tmp_path, "ready"))
            replaced = scripted_model("m", tmp_path, "hold")
            assert await placement.acquire(replaced) is old
            os.kill(int(await say(old, "!pid")), signal.SIGKILL)
            await old.ended.wait()
            waiting = asyncio.create_task(placement.acquire(replaced))
            await asyncio.sleep(0)
            Path(f"{replaced.paths[0]}.go").touch()
            assert await say(await waiting, "hello") == "hello"
            assert (await until_over(placement)).state == "done"

    run(test())


def test_requests_of_several_versions_wait_for_the_newest(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            old = await placement.acquire(scripted_model("m", tmp_path, "ready"))
            waiting: list[asyncio.Task[Handle]] = []
            for _ in range(3):
                replaced = scripted_model("m", tmp_path, "hold")
                if not waiting:
                    assert await placement.acquire(replaced) is old
                    os.kill(int(await say(old, "!pid")), signal.SIGKILL)
                    await old.ended.wait()
                waiting.append(asyncio.create_task(placement.acquire(replaced)))
                await asyncio.sleep(0.05)
            Path(f"{replaced.paths[0]}.go").touch()
            assert len(set(await asyncio.gather(*waiting))) == 1
            assert placement.tally["switches"] == 1 and placement.tally["failed_switches"] == 0

    run(test())


def test_who_reloads_is_told_of_the_newest_version(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            await placement.acquire(scripted_model("m", tmp_path, "ready"))
            reloading = asyncio.create_task(placement.reload(scripted_model("m", tmp_path, "hold")))
            await until(lambda: len(children()) == 2)
            placement.follow(scripted_model("m", tmp_path, "ready"))
            await reloading
            assert await until_over(placement) == SwitchStatus("done")

    run(test())


def test_when_the_new_worker_is_killed_the_old_one_stays(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            old = await placement.acquire(scripted_model("m", tmp_path, "ready"))
            first = children()
            replaced = scripted_model("m", tmp_path, "hold")
            reloading = asyncio.create_task(placement.reload(replaced))
            killed: set[int] = set()
            for _ in range(2):
                await until(lambda: bool(children() - first - killed))
                [new] = children() - first - killed
                os.kill(new, signal.SIGKILL)
                killed.add(new)
            with pytest.raises(ModelFailed, match="SIGKILL"):
                await reloading
            assert await placement.acquire(replaced) is old

    run(test())


def test_who_reloads_may_leave_without_ending_the_switch(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            await placement.acquire(scripted_model("m", tmp_path, "ready"))
            replaced = scripted_model("m", tmp_path, "hold")
            reloading = asyncio.create_task(placement.reload(replaced))
            await until(lambda: placement.status("m").switch is not None)
            reloading.cancel()
            Path(f"{replaced.paths[0]}.go").touch()
            assert await until_over(placement) == SwitchStatus("done")

    run(test())


def test_unloading_ends_a_switch(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            await placement.acquire(scripted_model("m", tmp_path, "ready"))
            reloading = asyncio.create_task(placement.reload(scripted_model("m", tmp_path, "mute")))
            await until(lambda: len(children()) == 2)
            assert await placement.unload("m")
            assert children() == set()
            with pytest.raises(WorkerLost, match="unloaded"):
                await reloading
            assert placement.status("m").switch is None

    run(test())


@pytest.mark.parametrize("num_turns", [0, 1, 2, 5, 10, 50, 1000])
def test_closing_at_any_moment_of_a_switch_leaves_nothing_behind(tmp_path: Path, num_turns: int) -> None:
    async def test() -> None:
        async with placed() as placement:
            await placement.acquire(scripted_model("m", tmp_path, "ready"))
            reloading = asyncio.create_task(placement.reload(scripted_model("m", tmp_path, "ready")))
            for _ in range(num_turns):
                await asyncio.sleep(0)
            await placement.close()
            [result] = await asyncio.gather(reloading, return_exceptions=True)
            assert result is None or isinstance(result, Draining)

    run(test())
