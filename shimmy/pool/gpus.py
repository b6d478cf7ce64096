"""How much of each GPU models may take: asked before a load that may put layers there, since others use GPUs too. And
which backends do not get any, because a model that was loaded with them ended its worker.

Asks through a worker without a model; the library that knows is never loaded here.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shimmy.core.errors import ShimmyError
from shimmy.pool.estimate import settings_of

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.core.ipc import Device
    from shimmy.core.startup import EngineOptions
    from shimmy.pool.supervisor import Supervisor

    Survey = Callable[[str | None], Awaitable[list[Device]]]

log = logging.getLogger(__name__)

# This part of a GPU's memory, but no more than that, is left to others where we choose how many layers go there.
_SPARE_PART = 16
_MAX_SPARE_BYTES = 1 << 30


def fitted(options: "EngineOptions") -> "EngineOptions":
    """With as many layers on GPUs as fit, unless the settings say something of GPUs."""
    from shimmy.core.engine_settings import EngineSettings

    settings = settings_of(options) or EngineSettings()
    if not settings.is_silent_of_gpus:
        return options
    packed = msgspec.msgpack.encode(msgspec.structs.replace(settings, gpu_layers="auto"))
    return msgspec.structs.replace(options, settings=packed)


class GpuLimit(NamedTuple):
    limit_bytes: int
    total_bytes: int

    def for_models(self, *, is_cautious: bool) -> int:
        """Bytes. What we choose to put there leaves some to others."""
        spare = min(self.total_bytes // _SPARE_PART, _MAX_SPARE_BYTES) if is_cautious else 0
        return self.limit_bytes - spare


class GpuFailure(NamedTuple):
    """Why a model has no layers on GPUs that nobody asked for, and which backends ended its worker when it had."""

    reason: str
    crashed: tuple[str, ...] = ()


class Gpus:
    """Owns the limits, by the names of GPUs: what each had free when it was last asked, and what was ours of it; of the
    backends that were left alone from some time on the reasons; and which ones have loaded a model. `residents` are all
    supervisors whose workers may still live."""

    def __init__(self, survey: "Survey | None", residents: "Callable[[], Iterable[Supervisor]]") -> None:
        self.limits: dict[str, GpuLimit] = {}
        self._survey = survey
        self._residents = residents
        self._without: set[str | None] = set()
        self._backends: dict[str, str] = {}
        self._failures: dict[str, str] = {}
        self._sound: set[str] = set()

    async def for_layers(self, options: "EngineOptions") -> "list[Device] | None":
        """Those that layers may go to, if any shall. None where that is for llama.cpp to say, and to refuse."""
        settings = settings_of(options)
        if settings is None or not settings.num_gpu_layers:
            return []
        from shimmy.pool.offload import usable

        return usable(await self._found(settings), settings)

    async def _found(self, settings: "EngineSettings") -> "list[Device]":
        only = None if settings.gpu_backend in (None, "auto") else settings.gpu_backend
        if self._survey is None or (only in self._without and not settings.needs_a_gpu):
            return []
        before = self._ours()
        try:
            devices = await self._survey(only)
        except (ShimmyError, OSError) as error:
            log.warning("what GPUs have free is not known: %s", error)
            return []
        gpus = [device for device in devices if "gpu" in device.kind]
        if not gpus:
            log.info("there is no GPU that models could use; `shimmy gpu-info` says why")
        self._note(gpus, before)
        if not settings.needs_a_gpu:
            gpus = [gpu for gpu in gpus if gpu.backend not in self._failures]
        if not gpus:
            # Where there is none, each load would else take the time to ask.
            self._without.add(only)
        return gpus

    def failure_of(self, supervisor: "Supervisor", error: ShimmyError, *, has_died: bool) -> GpuFailure | None:
        """What a load that failed says of GPUs: nothing where it had no layers there, or where somebody asked for that.
        One that is one more of its model has its layers there or is not loaded."""
        settings, needs = settings_of(supervisor.options), supervisor.needs
        if needs is None or not needs.num_layers or supervisor.is_spare():
            return None
        if settings is not None and settings.needs_a_gpu:
            return None
        names = [name for name, number in needs.layers.items() if number]
        crashed = dict.fromkeys(self._backends[name] for name in names) if has_died else ()
        return GpuFailure(f"with layers on {', '.join(names)}: {error.message}", tuple(crashed))

    def failure_before(self, options: "EngineOptions") -> GpuFailure | None:
        """Why no layers go to GPUs, if that is because of what came of another model's."""
        settings = settings_of(options)
        if not self._failures or settings is None or not settings.num_gpu_layers or settings.needs_a_gpu:
            return None
        return GpuFailure("; ".join(dict.fromkeys(self._failures.values())))

    def note_loaded(self, layers: Mapping[str, int]) -> None:
        """A model has been loaded with these on GPUs."""
        self._sound.update(self._backends[name] for name, number in layers.items() if number)

    def leave_alone(self, failure: GpuFailure) -> None:
        """The model was no reason to crash: it has been loaded without GPUs. Nor is a backend that has loaded one."""
        for backend in failure.crashed:
            if backend not in self._failures and backend not in self._sound:
                self._failures[backend] = failure.reason
                log.warning("until the next start no layers go to %s, unless settings ask for that", backend)

    def _note(self, gpus: "list[Device]", before: dict[str, int | None]) -> None:
        after = self._ours()
        for gpu in gpus:
            self._backends[gpu.name] = gpu.backend
            ours = [each.get(gpu.name, 0) for each in (before, after)]
            known = [each for each in ours if each is not None]
            # How much of what is not free was taken by one of ours that was being loaded, nobody knows.
            if len(known) == len(ours) or gpu.name not in self.limits:
                self.limits[gpu.name] = GpuLimit(gpu.free_bytes + max(known, default=0), gpu.total_bytes)

    def _ours(self) -> dict[str, int | None]:
        """What models have on each GPU; None where one is being loaded there, or is about to end."""
        ours: dict[str, int | None] = {}
        for each in self._residents():
            for name, num_bytes in (each.needs.gpu_bytes if each.needs is not None else {}).items():
                sum_ = ours.get(name, 0)
                ours[name] = None if sum_ is None or each.loaded is None else sum_ + num_bytes
        return ours
