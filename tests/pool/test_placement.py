import asyncio
from pathlib import Path
from time import monotonic

import msgspec
import pytest

from shimmy.core import ipc
from shimmy.core.errors import Draining, ModelFailed, ModelInvalid, WorkerLost
from shimmy.core.modelfile import Own
from shimmy.models.listing import Model
from shimmy.pool.placement import ModelStatus, Placement
from shimmy.server.residence import Residence
from tests.fakes.pool import (
    FakeCatalog,
    answer,
    children,
    fake_inference,
    fake_model,
    fake_spawn,
    generation,
    run,
    scripted_model,
)
from tests.pool.placed import placed, say


def test_every_model_has_its_own_worker_and_keeps_it() -> None:
    async def test() -> None:
        async with placed() as placement:
            a, b = await asyncio.gather(*(placement.acquire(fake_model(id)) for id in "ab"))
            assert await say(a, "!pid") != await say(b, "!pid")
            assert await placement.acquire(fake_model("a")) is a

    run(test())


def test_a_loaded_model_answers_while_another_one_loads(tmp_path: Path) -> None:
    slow = scripted_model("slow", tmp_path, "hold")

    async def test() -> None:
        async with placed() as placement:
            await placement.acquire(fake_model("quick"))
            loading = asyncio.create_task(placement.acquire(slow))
            while placement.status("slow").fraction == 0:
                await asyncio.sleep(0.001)
            assert await say(await placement.acquire(fake_model("quick")), "hello") == "hello"
            assert not loading.done()
            Path(f"{slow.paths[0]}.go").touch()
            assert await say(await loading, "finally") == "finally"

    run(test())


def test_status_of_models_asked_for(tmp_path: Path) -> None:
    progress: list[tuple[str, float]] = []
    held = scripted_model("held", tmp_path, "hold")
    broken = scripted_model("broken", tmp_path, "fail model_invalid bad magic")

    async def test() -> None:
        async with placed(on_progress=lambda *seen: progress.append(seen)) as placement:
            assert placement.status("echo") == ModelStatus("echo", "unloaded", 0.0, None, None)
            assert placement.statuses() == []
            await placement.acquire(fake_model("echo"))
            with pytest.raises(ModelInvalid):
                await placement.acquire(broken)
            loading = asyncio.create_task(placement.acquire(held))
            while ("held", 0.5) not in progress:
                await asyncio.sleep(0.001)
            one, two, three = placement.statuses()
            assert (one.id, one.state, one.reason, one.loaded) == ("broken", "failed", "bad magic", None)
            assert (two.id, two.state, two.fraction) == ("echo", "ready", 1.0)
            assert two.loaded is not None and two.loaded.num_sequences == 3
            assert (three.id, three.state, three.fraction) == ("held", "loading", 0.5)
            assert ("echo", 1.0) in progress
        with pytest.raises(Draining):
            await loading

    run(test())


def test_a_file_replaced_while_it_loads_sends_its_waiters_to_the_new_one(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            waiter = asyncio.create_task(placement.acquire(scripted_model("m", tmp_path, "hold")))
            while placement.status("m").fraction == 0:
                await asyncio.sleep(0.001)
            await placement.acquire(scripted_model("m", tmp_path, "ready"))
            with pytest.raises(WorkerLost, match="replaced"):
                await waiter

    run(test())


def test_a_repaired_file_starts_with_a_clean_slate(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            broken = scripted_model("m", tmp_path, "fail model_invalid bad magic")
            for _ in range(4):
                with pytest.raises(ModelInvalid):
                    await placement.acquire(broken)
            repaired: Model = scripted_model("m", tmp_path, "ready")
            assert await say(await placement.acquire(repaired), "hello") == "hello"

    run(test())


async def crash_for_good(placement: Placement, model: Model) -> None:
    for _ in range(3):
        with pytest.raises(WorkerLost, match="SIGSEGV"):
            await say(await placement.acquire(model), "!crash SIGSEGV 1")
    with pytest.raises(ModelFailed, match="too often"):
        await placement.acquire(model)
    assert placement.status(model.id).state == "failed"


def test_a_model_that_failed_may_be_unloaded_and_then_has_another_chance() -> None:
    async def test() -> None:
        async with placed() as placement:
            await crash_for_good(placement, fake_model("m"))
            assert await placement.unload("m")
            assert (placement.status("m").state, placement.status("m").reason) == ("unloaded", None)
            assert await say(await placement.acquire(fake_model("m")), "hello") == "hello"

    run(test())


def test_a_model_that_failed_has_another_chance_when_its_file_changes(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            await crash_for_good(placement, scripted_model("m", tmp_path, "ready"))
            placement.follow(scripted_model("m", tmp_path, "ready"))
            assert placement.status("m").state == "unloaded"

    run(test())


def test_whoever_loads_a_model_that_failed_gives_it_another_chance() -> None:
    async def test() -> None:
        async with placed() as placement:
            models = Residence(FakeCatalog(fake_model("m")), placement, monotonic)
            await crash_for_good(placement, fake_model("m"))
            await models.load("m")
            assert await say(await placement.acquire(fake_model("m")), "hello") == "hello"

    run(test())


def test_a_model_that_nobody_waits_for_is_unloaded_while_it_loads(tmp_path: Path) -> None:
    """Its worker may be coming back after a crash, for nobody."""

    async def test() -> None:
        async with placed() as placement:
            waiter = asyncio.create_task(placement.acquire(scripted_model("m", tmp_path, "hold")))
            while placement.status("m").fraction == 0:
                await asyncio.sleep(0.001)
            assert not await placement.unload("m")
            waiter.cancel()
            await asyncio.wait([waiter])
            assert await placement.unload("m")
            assert placement.status("m").state == "unloaded" and not children()

    run(test())


def test_closing_ends_everything_and_lets_nothing_new_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with placed() as placement:
            old = await placement.acquire(scripted_model("m", tmp_path, "ready"))
            old_stream = await old.submit(generation("!stall 1"))
            replaced = scripted_model("m", tmp_path, "ready")
            await placement.reload(replaced)
            new = await placement.acquire(replaced)
            new_stream = await new.submit(generation("!stall 1"))
            await placement.close()
            for stream in (old_stream, new_stream):
                with pytest.raises(Draining):
                    while True:
                        await anext(stream)
            with pytest.raises(Draining):
                await placement.acquire(fake_model("echo"))
            await placement.close()

    run(test())


def test_an_idle_model_is_unloaded_and_one_in_use_is_not() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            assert await inference.models.unload("echo")
            await inference.models.preload("echo")
            first = await answer(inference, "!pid")
            stream = inference.generate(generation("!stall 1"))
            await anext(stream)
            assert not await inference.models.unload("echo")
            await stream.aclose()
            assert await inference.models.unload("echo")
            assert not Path(f"/proc/{first}").exists()
            assert (await inference.models.status("echo")).state == "unloaded"
            assert await answer(inference, "!pid") != first

    run(test())


def test_what_comes_with_a_model_is_loaded_with_it() -> None:
    """A context that was asked for is not the model's own."""
    own = Own(adapters=("/blobs/one", "/blobs/two"), context_length=4096)
    model = msgspec.structs.replace(fake_model("mario"), own=own)

    async def main() -> None:
        async with placed() as placement:
            options = placement._options_for(model)
            assert options.adapters == (ipc.Adapter("own-1", "/blobs/one"), ipc.Adapter("own-2", "/blobs/two"))
            assert options.context_length == 4096
        placement = Placement(ipc.EngineOptions(context_length=2048), spawn=fake_spawn)
        assert placement._options_for(model).context_length == 2048
        await placement.close()

    asyncio.run(main())
