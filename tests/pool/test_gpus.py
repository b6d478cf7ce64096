"""How much of a GPU models may take: what is free of it, and what they have already."""

from typing import Any, cast

import msgspec
import pytest

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.errors import ShimmyError
from shimmy.core.ipc import Device, EngineOptions
from shimmy.pool.demand import Needs
from shimmy.pool.estimate import Estimate
from shimmy.pool.gpus import GpuLimit, Gpus
from shimmy.pool.supervisor import MAIN, Supervisor
from tests.fakes.pool import run

OPTIONS = EngineOptions(settings=msgspec.msgpack.encode(EngineSettings(gpu_layers="all")))


class Resident:
    def __init__(self, gpu_bytes: int, loaded: bool = True) -> None:
        self.needs = Needs({MAIN: 1, "G0": gpu_bytes}, {"G0": 1}, Estimate(0, 0, 0, 0, 0), [])
        self.loaded = object() if loaded else None


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
    auto = EngineOptions(settings=msgspec.msgpack.encode(EngineSettings(gpu_layers="auto")))
    assert run(gpus.for_layers(auto)) == []
    assert run(gpus.for_layers(OPTIONS)) is None


def test_a_part_is_left_to_others_where_we_choose() -> None:
    gigabyte = 1 << 30
    small, large = GpuLimit(8 * gigabyte, 8 * gigabyte), GpuLimit(70 * gigabyte, 80 * gigabyte)
    assert small.for_models(is_cautious=True) == 7.5 * gigabyte
    assert large.for_models(is_cautious=True) == 69 * gigabyte
    assert large.for_models(is_cautious=False) == 70 * gigabyte
