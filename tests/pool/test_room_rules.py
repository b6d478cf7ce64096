"""What holds of Room whatever is loaded, used and pinned in whatever order."""

import asyncio
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.errors import InsufficientMemory
from shimmy.core.ipc import Device
from shimmy.core.startup import EngineOptions
from shimmy.pool import room as room_module
from shimmy.pool.demand import Needs
from shimmy.pool.group import Group
from shimmy.pool.room import Room
from shimmy.pool.stay import Priority, Stay
from shimmy.pool.supervisor import MAIN, Supervisor
from tests.fakes.pool import fake_model

MB = 1 << 20
LIMIT = 1000 * MB


class Resident:
    """As much of a supervisor, and of a group with one worker, as Room looks at."""

    def __init__(self, id: int, num_megabytes: int, **settings: Any) -> None:
        self.model: Any = fake_model(str(id))
        self.model = type(self.model)(
            **{field: getattr(self.model, field) for field in self.model.__struct_fields__}
            | {"size_bytes": num_megabytes * MB, "identity": ((0, id, num_megabytes, 0),)}
        )
        self.options = EngineOptions(settings=msgspec.msgpack.encode(EngineSettings(**settings)) if settings else b"")
        self.stay = Stay()
        self.needs: Needs | None = None
        self.load_options = self.options
        self.gpu_failure = None
        self.loaded: object | None = None
        self.is_idle = True
        self.is_leaving = False
        self.is_spare = lambda: False
        self.idle_since = 0.0

    @property
    def taken_bytes(self) -> int:
        return self.taken(MAIN)

    def taken(self, place: str) -> int:
        return self.needs.bytes.get(place, 0) if self.needs is not None else 0

    def held(self) -> None:
        return None

    def undergo(self, act: str, time: int) -> None:
        match act:
            case "use" | "finish":
                self.is_idle = act == "finish"
                self.idle_since = time
            case "pin" | "unpin":
                self.stay.pinned = act == "pin"
            case "low" | "high":
                self.stay.priority = Priority[act.upper()]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "use", "finish", "pin", "unpin", "low", "high"]),
        st.integers(0, 5),
        st.integers(1, 900),
    ),
    max_size=30,
)


@given(STEPS)
def test_the_limit_holds_and_nobody_leaves_who_must_not(steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(_play(steps))


async def _play(steps: list[tuple[str, int, int]]) -> None:
    loaded: dict[int, Resident] = {}
    evicted: list[Resident] = []

    async def evict(victim: Group) -> None:
        resident = cast(Resident, victim)
        assert resident.is_idle and not resident.stay.pinned
        order = (resident.stay.priority, resident.idle_since)
        others = [each for each in loaded.values() if each.is_idle and not each.stay.pinned]
        assert order == min((each.stay.priority, each.idle_since) for each in others)
        evicted.append(resident)
        del loaded[int(resident.model.id)]

    def residents() -> list[Supervisor]:
        return cast(list[Supervisor], list(loaded.values()))

    def groups() -> list[Group]:
        return cast(list[Group], list(loaded.values()))

    room = Room(LIMIT, residents, groups, evict, lambda: None)
    for time, (act, id, size) in enumerate(steps):
        match act:
            case "load" if id not in loaded:
                newcomer = Resident(id, size)
                before = dict(loaded)
                try:
                    await room.make(cast(Supervisor, newcomer))
                except InsufficientMemory as error:
                    assert error.details["needed_bytes"] > error.details["free_bytes"]
                    unable = [each for each in before.values() if each.stay.pinned or not each.is_idle]
                    stuck = sum(each.taken_bytes for each in unable)
                    assert stuck + error.details["needed_bytes"] > LIMIT
                else:
                    newcomer.idle_since = time
                    loaded[id] = newcomer
            case _ if id in loaded:
                loaded[id].undergo(act, time)
        assert room.usage().taken_bytes <= LIMIT


@given(STEPS)
def test_a_gpu_never_has_more_than_it_can_and_idle_ones_leave_for_layers(steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(_play_on_a_gpu(steps))


async def _play_on_a_gpu(steps: list[tuple[str, int, int]]) -> None:
    """Each model is one layer, which has a place there or not."""
    loaded: dict[int, Resident] = {}

    def taken() -> int:
        return sum(each.taken("G0") for each in loaded.values())

    async def survey(only: str | None) -> list[Device]:
        return [Device("G0", "", "gpu", "", LIMIT - taken(), LIMIT)]

    async def evict(victim: Group) -> None:
        resident = cast(Resident, victim)
        assert resident.is_idle and not resident.stay.pinned and resident.taken("G0")
        del loaded[int(resident.model.id)]

    def residents() -> list[Supervisor]:
        return cast(list[Supervisor], list(loaded.values()))

    room = Room(None, residents, lambda: cast(list[Group], list(loaded.values())), evict, lambda: None, survey)
    for time, (act, id, size) in enumerate(steps):
        match act:
            case "load" if id not in loaded:
                newcomer = Resident(id, size, gpu_layers="auto")
                before = dict(loaded)
                await room.make(cast(Supervisor, newcomer))
                assert newcomer.needs is not None
                if not newcomer.needs.num_layers:
                    # Nor would it have had one without all that could have left.
                    staying = [each for each in before.values() if each.stay.pinned or not each.is_idle]
                    assert sum(each.taken("G0") for each in staying) + size * MB > LIMIT - LIMIT // 16
                    assert loaded == before
                newcomer.loaded = object()
                newcomer.idle_since = time
                loaded[id] = newcomer
            case _ if id in loaded:
                loaded[id].undergo(act, time)
        assert taken() <= LIMIT - LIMIT // 16
        assert all(usage == (LIMIT, taken()) for usage in room.gpu_usage().values())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_module, "WAIT_SECONDS", 0.0)
