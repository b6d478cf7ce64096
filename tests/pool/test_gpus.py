"""How much of a GPU models may take: what is free of it, and what they have already."""

from typing import Any, cast

import msgspec
import pytest

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.errors import ShimmyError
from shimmy.core.ipc import Device, EngineOptions
from shimmy.pool.demand import Needs
from shimmy.pool.estimate import Estimate
from shimmy.pool.gpus import GpuFailure, GpuLimit, Gpus
from shimmy.pool.supervisor import MAIN, Supervisor
from tests.fakes.pool import run

OPTIONS = EngineOptions(settings=msgspec.msgpack.encode(EngineSettings(gpu_layers="all")))


AUTO = EngineOptions(settings=msgspec.msgpack.encode(EngineSettings(gpu_layers="auto")))


class Resident:
    def __init__(
        self, gpu_bytes: int, loaded: bool = True, options: EngineOptions = OPTIONS, spare: bool = False
    ) -> None:
        self.needs = Needs({MAIN: 1, "G0": gpu_bytes}, {"G0": 1, "G1": 0}, Estimate(0, 0, 0, 0, 0), [])
        self.loaded = object() if loaded else None
        self.options = options
        self.is_spare = lambda: spare


class Machine:
    def __init__(self) -> None:
        self.residents: list[Any] = []
        self.free_bytes = 100
        self.gpus = Gpus(self.survey, lambda: cast(list[Supervisor], self.residents))

    async def survey(self, only: str | None) -> list[Device]:
        return [Device("CPU", "", "cpu", "", 9, 9), Device("G0", "", "gpu", "", self.free_bytes, 100)]

    def limit(self) -> int:
        run(self.gpus.for_layers(OPTIONS))
        assert list(self.gpus.limits) == ["G0"]
        return self.gpus.limits["G0"].limit_bytes


def test_what_models_have_is_theirs() -> None:
    machine = Machine()
    assert machine.limit() == 100
    machine.residents, machine.free_bytes = [Resident(30), Resident(20)], 50
    assert machine.limit() == 100
    # Others take some, too.
    machine.free_bytes = 40
    assert machine.limit() == 90


def test_while_one_is_loaded_it_is_not_known_what_it_has() -> None:
    machine = Machine()
    assert machine.limit() == 100
    machine.residents, machine.free_bytes = [Resident(30), Resident(40, loaded=False)], 55
    assert machine.limit() == 100
    unknown = Machine()
    unknown.residents, unknown.free_bytes = machine.residents, 55
    assert unknown.limit() == 55


def test_a_model_that_leaves_while_they_are_asked_was_still_there() -> None:
    machine = Machine()
    machine.residents, machine.free_bytes = [Resident(30)], 70
    asked = machine.survey

    async def survey(only: str | None) -> list[Device]:
        found = await asked(only)
        machine.residents = []
        return found

    machine.gpus = Gpus(survey, lambda: cast(list[Supervisor], machine.residents))
    assert machine.limit() == 100


@pytest.mark.parametrize("error", [ShimmyError("it ended"), OSError("no more processes")])
def test_where_nobody_can_be_asked_the_cpu_computes_or_llama_cpp_refuses(error: Exception) -> None:
    async def survey(only: str | None) -> list[Device]:
        raise error

    gpus = Gpus(survey, list)
    assert run(gpus.for_layers(AUTO)) == []
    assert run(gpus.for_layers(OPTIONS)) is None


def test_a_part_is_left_to_others_where_we_choose() -> None:
    gigabyte = 1 << 30
    small, large = GpuLimit(8 * gigabyte, 8 * gigabyte), GpuLimit(70 * gigabyte, 80 * gigabyte)
    assert small.for_models(is_cautious=True) == 7.5 * gigabyte
    assert large.for_models(is_cautious=True) == 69 * gigabyte
    assert large.for_models(is_cautious=False) == 70 * gigabyte


def test_a_backend_that_is_left_alone_leaves_the_others_and_is_there_for_who_asks() -> None:
    async def survey(only: str | None) -> list[Device]:
        return [Device("G0", "", "gpu", "One", 50, 100), Device("G1", "", "gpu", "Two", 50, 100)]

    def names(options: EngineOptions) -> list[str]:
        return [gpu.name for gpu in run(gpus.for_layers(options)) or ()]

    gpus = Gpus(survey, list)
    assert names(AUTO) == ["G0", "G1"]
    failure = gpus.failure_of(cast(Supervisor, Resident(1, options=AUTO)), ShimmyError("it ended"), has_died=True)
    assert failure == GpuFailure("with layers on G0: it ended", ("One",))
    gpus.leave_alone(failure)
    assert names(AUTO) == ["G1"] and names(OPTIONS) == ["G0", "G1"]
    gpus.leave_alone(GpuFailure("with layers on G1: it ended", ("Two",)))
    assert names(AUTO) == [] and names(OPTIONS) == ["G0", "G1"]
    assert gpus.failure_before(AUTO) == GpuFailure("with layers on G0: it ended; with layers on G1: it ended")
    assert gpus.failure_before(OPTIONS) is gpus.failure_before(EngineOptions()) is None


def test_a_load_fails_for_itself_where_gpus_are_asked_for_or_another_worker_has_them() -> None:
    machine = Machine()
    machine.limit()
    for resident in (Resident(1), Resident(1, options=AUTO, spare=True)):
        failed = cast(Supervisor, resident)
        assert machine.gpus.failure_of(failed, ShimmyError("it ended"), has_died=True) is None
    silent = machine.gpus.failure_of(
        cast(Supervisor, Resident(1, options=EngineOptions())), ShimmyError("it is broken"), has_died=False
    )
    assert silent == GpuFailure("with layers on G0: it is broken")
