"""Who may be loaded where layers go to GPUs, in fake workers that say which settings they were loaded with."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.errors import InsufficientMemory, ModelFailed, ShimmyError, WorkerLost
from shimmy.core.ipc import Device, EngineOptions
from shimmy.hardware import memory as memory_module
from shimmy.models.facts import inspect
from shimmy.models.listing import Model
from shimmy.pool.placement import Placement
from shimmy.pool.process import OnEnd, OnMessage, Spawn, WorkerProcess
from tests.fakes.clock import FakeTime
from tests.fakes.gguf_writer import model as header
from tests.fakes.pool import fake_model, fake_spawn, generation, run, scripted_model
from tests.pool.placed import say

GB = 1 << 30
NUM_BLOCKS = 19
# What a worker is told to put there, where that is every layer.
ALL = -1
# Of which a sixteenth is left to others where we choose.
GPU_BYTES = 16 * GB


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fake worker really takes says nothing of what a model would."""
    monkeypatch.setattr(memory_module, "anonymous_bytes", lambda pid: None)


class Machine:
    """A placement, and the GPUs of its machine: what its models have there is not free."""

    def __init__(self, *gpus: str, kind: str = "gpu") -> None:
        self.num_surveys = 0
        self.only: str | None = None
        self.others_bytes = 0
        self._gpus = gpus
        self._kind = kind
        self.placement: Placement

    async def survey(self, only: str | None) -> list[Device]:
        self.num_surveys += 1
        self.only = only
        usage = self.placement.gpu_usage()
        taken = {name: (usage[name].taken_bytes if name in usage else 0) + self.others_bytes for name in self._gpus}
        found = [Device("CPU", "a CPU", "cpu", "CPU", GPU_BYTES, GPU_BYTES)]
        return found + [
            Device(name, "a GPU", self._kind, "Fake", GPU_BYTES - taken[name], GPU_BYTES) for name in self._gpus
        ]

    async def use(self, model: Model, time: FakeTime | None = None) -> dict[str, int]:
        """The layers that it has on GPUs."""
        if time is not None:
            time.now += 1
        assert await say(await self.placement.acquire(model), "hello") == "hello"
        return self.layers(model.id)

    def layers(self, id: str) -> dict[str, int]:
        loaded = self.placement.status(id).loaded
        assert loaded is not None
        return loaded.layers

    @property
    def loaded(self) -> Sequence[str]:
        return [status.id for status in self.placement.statuses() if status.state == "ready"]


@asynccontextmanager
async def machine(
    *gpus: str,
    time: FakeTime | None = None,
    kind: str = "gpu",
    survey: Callable[[str | None], Any] | None = None,
    has_backend: bool = False,
    memory_limit_bytes: int | None = None,
    spawn: Spawn = fake_spawn,
    **settings: Any,
) -> AsyncIterator[Machine]:

    async def has_gpu_backend() -> bool:
        return has_backend

    made, time = Machine(*gpus, kind=kind), time or FakeTime()
    made.placement = Placement(
        EngineOptions(
            context_length=256, settings=msgspec.msgpack.encode(EngineSettings(**settings)) if settings else b""
        ),
        spawn=spawn,
        clock=time.clock,
        sleep=time.sleep,
        measure=lambda: None,
        survey=survey or made.survey,
        has_gpu_backend=has_gpu_backend,
        memory_limit_bytes=memory_limit_bytes,
    )
    try:
        yield made
    finally:
        await made.placement.close()


@pytest.fixture
def of_gigabytes(tmp_path: Path) -> Callable[..., Model]:
    """A model of 20 layers, the output layer among them, which are all of it."""
    path = tmp_path / "header.gguf"
    header(llama__block_count=NUM_BLOCKS).write(path)
    facts = inspect((str(path),)).facts

    def made(id: str, num_gigabytes: int, load: str | None = None) -> Model:
        model = fake_model(id) if load is None else scripted_model(id, tmp_path, load)
        return msgspec.structs.replace(model, size_bytes=num_gigabytes * GB, facts=facts)

    return made


def test_as_many_layers_as_there_is_memory_for(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine("G0", gpu_layers="auto") as here:
            # 15 GB, in which 14 layers of one fit with what is computed with.
            assert await here.use(of_gigabytes("large", 20)) == {"G0": 14}
            assert 14 * GB < here.placement.gpu_bytes("large")["G0"] < 15 * GB
            assert here.placement.gpu_usage()["G0"].limit_bytes == GPU_BYTES
            assert 5 * GB < here.placement.taken_bytes("large") < 7 * GB
        async with machine("G0", gpu_layers="auto") as here:
            assert await here.use(of_gigabytes("small", 10)) == {"G0": ALL}
            here.others_bytes = 9 * GB
            await here.placement.unload("small")
            assert await here.use(of_gigabytes("small", 10)) == {"G0": 11}

    run(test())


def test_to_name_a_gpu_is_to_want_as_many_there_as_fit(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine("G0", "G1", device=("g1",)) as here:
            assert await here.use(of_gigabytes("large", 20)) == {"G1": 14}
            assert here.only is None
        async with machine("G0", gpu_backend="vulkan") as here:
            assert await here.use(of_gigabytes("large", 20)) == {"G0": 14}
            assert here.only == "vulkan"

    run(test())


def test_what_nobody_asked_for_is_done_where_there_is_a_backend(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine("G0", has_backend=True) as here:
            assert await here.use(of_gigabytes("large", 20)) == {"G0": 14}
        async with machine("G0", has_backend=True, cpu_moe=True) as here:
            assert await here.use(of_gigabytes("large", 20)) == {"G0": 14}
        refusals: list[dict[str, Any]] = [{"gpu_layers": 0}, {"gpu_backend": "cpu"}]
        for refusal in refusals:
            async with machine("G0", has_backend=True, **refusal) as here:
                assert await here.use(of_gigabytes("large", 20)) == {}
                assert here.num_surveys == 0
        silent: list[dict[str, Any]] = [{}, {"cpu_moe": True}]
        for settings in silent:
            async with machine("G0", **settings) as here:
                assert await here.use(of_gigabytes("large", 20)) == {}
                assert here.num_surveys == 0

    run(test())


def test_a_backend_that_does_nothing_is_no_error_and_is_asked_once(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine(has_backend=True) as here:
            assert await here.use(of_gigabytes("a", 1)) == {}
            assert await here.use(of_gigabytes("b", 1)) == {}
            assert here.num_surveys == 1

    run(test())


def test_several_gpus_share(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine("G0", "G1", gpu_layers="auto") as here:
            assert await here.use(of_gigabytes("large", 40)) == {"G0": 7, "G1": 7}
        async with machine("G0", "G1", gpu_layers="auto", tensor_split=(3, 1)) as here:
            assert await here.use(of_gigabytes("large", 40)) == {"G0": 7, "G1": 2}
        async with machine("G0", "G1", gpu_layers="auto", main_gpu=1) as here:
            assert await here.use(of_gigabytes("large", 40)) == {"G1": 7}

    run(test())


def test_an_idle_model_leaves_for_more_layers_and_one_without_any_there_does_not(
    of_gigabytes: Callable[..., Model],
) -> None:
    async def test() -> None:
        time = FakeTime()
        async with machine("G0", time=time, gpu_layers="auto") as here:
            busy = await here.placement.acquire(of_gigabytes("first", 14))
            stream = await busy.submit(generation("!stall 1"))
            await anext(stream)
            # It does not wait for the other one either.
            assert await here.use(of_gigabytes("second", 20), time) == {}
            assert here.loaded == ["first", "second"]
            # It has been idle for less time than the other one.
            time.now += 1
            busy.abort(stream)
            while here.placement.num_running("first"):
                await asyncio.sleep(0.001)
            assert await here.use(of_gigabytes("third", 10), time) == {"G0": ALL}
            assert here.loaded == ["second", "third"]
            assert await here.use(of_gigabytes("small", 1), time) == {"G0": ALL}
            assert here.loaded == ["second", "small", "third"]

    run(test())


def test_a_number_of_layers_is_kept_or_refused(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        time = FakeTime()
        async with machine("G0", time=time, gpu_layers=10, device=("G0",)) as here:
            assert await here.use(of_gigabytes("first", 20), time) == {"G0": 10}
            assert await here.use(of_gigabytes("second", 10), time) == {"G0": 10}
            assert await here.use(of_gigabytes("third", 20), time) == {"G0": 10}
            assert here.loaded == ["second", "third"]
            here.placement.stay_of("third").pinned = True
            with pytest.raises(
                InsufficientMemory, match=r"needs 1\d.\d GiB of memory on G0, and .*--gpu-lay"
            ) as raised:
                await here.placement.acquire(of_gigabytes("huge", 25))
            assert raised.value.details["device"] == "G0"
            assert raised.value.details["limit_bytes"] == GPU_BYTES
            assert raised.value.details["needed_bytes"] > 12 * GB > raised.value.details["free_bytes"]
            assert here.loaded == ["second", "third"]

    run(test())


def test_another_worker_has_as_many_layers_or_there_is_none(
    of_gigabytes: Callable[..., Model], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with machine("G0", gpu_layers="auto") as here:
            here.placement.want_workers("small", 2)
            here.placement.want_workers("large", 2)
            assert await here.use(of_gigabytes("small", 5)) == {"G0": ALL}
            while here.placement.status("small").num_workers < 2:
                await asyncio.sleep(0.001)
            assert here.placement.gpu_bytes("small")["G0"] > 10 * GB
            await here.placement.unload("small")
            assert await here.use(of_gigabytes("large", 10)) == {"G0": ALL}
            while "model large has 1 of 2 workers: model 'large' needs " not in caplog.text:
                await asyncio.sleep(0.001)
            assert here.placement.status("large").num_workers == 1

    run(test())


def test_what_did_not_fit_after_all_is_tried_with_fewer_layers(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine("G0", gpu_layers="auto") as here:
            assert await here.use(of_gigabytes("large", 20, "fits 10")) == {"G0": 9}
            assert here.placement.tally["failed_loads"] == 1
            assert await here.use(of_gigabytes("never", 20, "fits 0")) == {}
        async with machine("G0", gpu_layers=12, device=("G0",)) as here:
            with pytest.raises(ShimmyError, match="failed to allocate"):
                await here.placement.acquire(of_gigabytes("large", 20, "fits 10"))
            assert here.placement.tally["failed_loads"] == 1

    run(test())


def test_a_gpu_of_the_processor_has_main_memory(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine("G0", kind="integrated gpu", gpu_layers="auto") as here:
            assert await here.use(of_gigabytes("large", 20)) == {"G0": 14}
            assert here.placement.taken_bytes("large") > 20 * GB

    run(test())


def test_without_gpus_nobody_is_asked_twice(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine(gpu_layers="auto") as here:
            assert await here.use(of_gigabytes("a", 1)) == {}
            assert await here.use(of_gigabytes("b", 1)) == {}
            assert here.num_surveys == 1 and not here.placement.gpu_usage()
        async with machine("G0", gpu_layers=0) as here:
            assert await here.use(of_gigabytes("a", 1)) == {}
            assert here.num_surveys == 0

    run(test())


def test_where_nobody_can_say_what_is_free_the_cpu_computes(of_gigabytes: Callable[..., Model]) -> None:
    async def fails(only: str | None) -> list[Device]:
        raise ShimmyError("the worker process ended, and did not list its devices")

    async def test() -> None:
        async with machine(survey=fails, gpu_layers="auto") as here:
            assert await here.use(of_gigabytes("a", 1)) == {}
        # What was asked for is for the worker to refuse.
        async with machine(survey=fails, gpu_layers=3, device=("G0",)) as here:
            assert await here.use(of_gigabytes("a", 1)) == {"G0": 3}

    run(test())


BREAKS = "with-gpus crash SIGABRT"
FAILURE = "with layers on G0: model 'a' cannot be loaded: its worker process ended (SIGABRT)"


def test_a_load_that_crashes_with_gpus_nobody_asked_for_is_tried_once_without(
    of_gigabytes: Callable[..., Model], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        time = FakeTime()
        async with machine("G0", time=time, has_backend=True) as here:
            a = of_gigabytes("a", 20, BREAKS)
            handles = await asyncio.gather(*(here.placement.acquire(a) for _ in range(5)))
            assert len(set(handles)) == 1 and here.layers("a") == {}
            assert here.placement.status("a").gpu_failure == FAILURE
            assert here.placement.taken_bytes("a") > 20 * GB and here.placement.gpu_bytes("a") == {}
            assert (here.placement.tally["failed_loads"], here.placement.tally["crashes"], time.slept) == (1, 0, [])
            # It was no crash of the model: with these two it would be the third.
            for _ in range(2):
                with pytest.raises(WorkerLost):
                    await say(await here.placement.acquire(a), "!crash SIGSEGV 1")
            assert await here.use(a) == {}
            assert here.placement.tally["failed_loads"] == 1

    run(test())
    assert f"model a is loaded once more, without GPUs: {FAILURE}" in caplog.text


def test_gpus_that_ended_a_load_are_left_alone_by_other_models(
    of_gigabytes: Callable[..., Model], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with machine("G0", gpu_layers="auto") as here:
            assert await here.use(of_gigabytes("memory", 1, BREAKS)) == {}
            for id in ("b", "c"):
                assert await here.use(of_gigabytes(id, 1, BREAKS)) == {}
                assert here.placement.status(id).gpu_failure == FAILURE.replace("'a'", "'memory'")
            # The second one was still asked: there might have been others.
            assert (here.num_surveys, here.placement.tally["failed_loads"]) == (2, 1)

    run(test())
    assert caplog.text.count("until the next start no layers go to Fake, unless settings ask for that") == 1


def test_a_model_that_crashes_without_gpus_as_well_is_at_fault_itself(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine("G0", has_backend=True) as here:
            with pytest.raises(ModelFailed, match="SIGABRT"):
                await here.placement.acquire(of_gigabytes("broken", 1, "crash SIGABRT"))
            assert here.placement.tally["failed_loads"] == 2
            assert await here.use(of_gigabytes("sound", 1)) == {"G0": ALL}
            assert here.placement.status("sound").gpu_failure is None

    run(test())


def test_a_load_that_only_fails_with_gpus_says_nothing_of_other_models(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine("G0", has_backend=True) as here:
            assert await here.use(of_gigabytes("odd", 1, "with-gpus fail model_invalid no such kernel")) == {}
            assert here.placement.status("odd").gpu_failure == "with layers on G0: no such kernel"
            assert await here.use(of_gigabytes("usual", 1)) == {"G0": ALL}

    run(test())


@pytest.mark.parametrize(
    "settings", [{"gpu_layers": 3, "device": ("G0",)}, {"device": ("G0",)}, {"gpu_backend": "vulkan"}]
)
def test_where_gpus_were_asked_for_a_load_that_crashes_fails(
    of_gigabytes: Callable[..., Model], settings: dict[str, Any]
) -> None:
    async def test() -> None:
        async with machine("G0", **settings) as here:
            with pytest.raises(ModelFailed, match="SIGABRT"):
                await here.placement.acquire(of_gigabytes("a", 1, BREAKS))
            status = here.placement.status("a")
            assert (status.state, status.gpu_failure) == ("failed", None)
            assert here.placement.tally["failed_loads"] == 2

    run(test())


def test_a_worker_that_cannot_be_started_says_nothing_of_gpus(of_gigabytes: Callable[..., Model]) -> None:
    async def spawn(on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
        raise OSError(errno.EAGAIN, "no more processes")

    async def test() -> None:
        async with machine("G0", has_backend=True, spawn=spawn) as here:
            with pytest.raises(ModelFailed, match="no more processes"):
                await here.placement.acquire(of_gigabytes("a", 1))
            assert here.placement.status("a").gpu_failure is None

    run(test())


def test_without_gpus_it_needs_main_memory_and_is_refused_with_both_reasons(
    of_gigabytes: Callable[..., Model],
) -> None:
    async def test() -> None:
        async with machine("G0", has_backend=True, memory_limit_bytes=8 * GB) as here:
            with pytest.raises(InsufficientMemory) as raised:
                await here.placement.acquire(of_gigabytes("a", 12, BREAKS))
            assert raised.value.message.endswith(f"; GPUs are left out, {FAILURE}")
            assert here.placement.taken_bytes("a") == 0 and here.placement.gpu_bytes("a") == {}

    run(test())


def test_without_gpus_it_may_not_fit_and_next_time_they_are_tried_again(
    of_gigabytes: Callable[..., Model], tmp_path: Path
) -> None:
    async def test() -> None:
        time = FakeTime()
        async with machine("G0", time=time, has_backend=True, memory_limit_bytes=8 * GB) as here:
            a = of_gigabytes("a", 12, BREAKS)
            with pytest.raises(InsufficientMemory):
                await here.placement.acquire(a)
            assert here.placement.status("a").gpu_failure is None
            # This time nothing is in its way.
            scripted_model("a", tmp_path, "ready")
            assert await here.use(a) == {"G0": ALL}
            # Who crashes each time is not tried with each request.
            broken = of_gigabytes("broken", 12, BREAKS)
            for _ in range(4):
                with pytest.raises(InsufficientMemory):
                    await here.placement.acquire(broken)
            assert here.placement.tally["failed_loads"] == 1 + 3

    run(test())


def test_gpus_that_a_model_was_loaded_on_are_not_left_alone_for_another(
    of_gigabytes: Callable[..., Model], caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with machine("G0", has_backend=True) as here:
            assert await here.use(of_gigabytes("usual", 1)) == {"G0": ALL}
            assert await here.use(of_gigabytes("a", 1, BREAKS)) == {}
            assert here.placement.status("a").gpu_failure == FAILURE
            assert await here.use(of_gigabytes("next", 1)) == {"G0": ALL}

    run(test())
    assert "until the next start" not in caplog.text


def test_a_model_that_crashes_too_often_on_gpus_nobody_asked_for_is_loaded_without(
    of_gigabytes: Callable[..., Model],
) -> None:
    async def crash(here: Machine, model: Model) -> None:
        with pytest.raises(WorkerLost):
            await say(await here.placement.acquire(model), "!crash SIGSEGV 1")

    async def test() -> None:
        async with machine("G0", has_backend=True) as here:
            a, other = of_gigabytes("a", 1), of_gigabytes("other", 1)
            for _ in range(3):
                assert await here.use(a) == {"G0": ALL}
                await crash(here, a)
            assert await here.use(a) == {}
            reason = "with layers on G0: model 'a' crashed too often, the last time with SIGSEGV"
            assert here.placement.status("a").gpu_failure == reason
            assert await here.use(other) == {"G0": ALL}
            # So it was not for GPUs that it crashed.
            await crash(here, a)
            with pytest.raises(ModelFailed, match="crashed too often"):
                await here.placement.acquire(a)
        async with machine("G0", gpu_layers=3, device=("G0",)) as here:
            for _ in range(3):
                await crash(here, a)
            with pytest.raises(ModelFailed, match="crashed too often"):
                await here.placement.acquire(a)

    run(test())


def test_a_load_that_hangs_with_gpus_says_nothing_of_other_models(of_gigabytes: Callable[..., Model]) -> None:
    async def test() -> None:
        async with machine("G0", has_backend=True) as here:
            loading = asyncio.create_task(here.use(of_gigabytes("a", 1, "with-gpus mute")))
            while here.placement.status("a").fraction < 0.5:
                await asyncio.sleep(0.001)
            [handle] = here.placement._handles()
            handle.end_hung()
            assert await loading == {}
            reason = here.placement.status("a").gpu_failure
            assert reason is not None and "did nothing any more" in reason
            assert await here.use(of_gigabytes("next", 1)) == {"G0": ALL}

    run(test())


def test_where_one_worker_of_a_model_has_no_gpus_for_a_failure_the_others_have_none(
    of_gigabytes: Callable[..., Model],
) -> None:
    async def test() -> None:
        async with machine("G0", has_backend=True) as here:
            here.placement.want_workers("odd", 3)
            odd = of_gigabytes("odd", 1, "with-gpus fail model_invalid no such kernel")
            assert await here.use(odd) == {}
            await here.placement.filled("odd")
            assert (here.placement.status("odd").num_workers, here.placement.tally["failed_loads"]) == (3, 1)

    run(test())


@pytest.mark.parametrize("id", ["a", "to"])
def test_a_want_of_memory_is_told_whatever_the_model_is_called(of_gigabytes: Callable[..., Model], id: str) -> None:
    async def test() -> None:
        async with machine("G0", gpu_layers="auto") as here:
            assert await here.use(of_gigabytes(id, 20, "fits 10")) == {"G0": 9}

    run(test())
