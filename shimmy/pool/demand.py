"""What a model that is to be loaded needs of main memory and of each GPU, which depends on what is free there: as many
layers go to GPUs as fit, unless their number was given. Knows nothing of other models.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from shimmy.core.startup import EngineOptions
from shimmy.pool.estimate import UNNAMED_GPU, Details, Estimate, Estimator
from shimmy.pool.supervisor import MAIN

if TYPE_CHECKING:
    from shimmy.core.ipc import Device
    from shimmy.models.listing import Identity, Model

# As ggml calls those of the processor (worker/llama/devices.py).
INTEGRATED = "integrated gpu"

# So many times more is expected after a load that failed for want of memory.
_MORE, _TOO_MUCH = 1.5, 1e9
# Layers by the names of GPUs, hashable.
_Layers = tuple[tuple[str, int], ...]


class Needs(NamedTuple):
    """Bytes by place, and layers by GPU, as `estimate` has them, or corrected; `shared` are GPUs without memory of
    their own, of which all counts as main memory, too."""

    bytes: dict[str, int]
    layers: dict[str, int]
    estimate: Estimate
    shared: list[str]

    @property
    def gpu_bytes(self) -> dict[str, int]:
        return {place: size for place, size in self.bytes.items() if place != MAIN}

    @property
    def num_layers(self) -> int:
        return sum(self.layers.values())

    def missing(self, free_bytes: Mapping[str, int]) -> list[str]:
        """The places that have too little; those of which nobody knows what is free are not among them."""
        return [place for place, needed in self.bytes.items() if place in free_bytes and needed > free_bytes[place]]


class Experience:
    """What models really took once they were loaded, by which the next estimate of the same file goes."""

    def __init__(self) -> None:
        # Of main memory beside the cache, which depends on what is elsewhere.
        self._main: dict[tuple[Identity, _Layers], int] = {}
        # Of each GPU, as a part of what was estimated.
        self._gpus: dict[tuple[Identity, str], float] = {}
        self._were_short: set[Identity] = set()

    def note(self, model: "Model", needs: Needs, main_bytes: int | None, gpu_bytes: Mapping[str, int]) -> Needs:
        """What is known of a model that was loaded, its cache still empty. Returns what it needs, corrected by that."""
        if main_bytes is not None:
            self._main[model.identity, tuple(needs.layers.items())] = main_bytes
        estimated = needs.estimate.gpu_bytes
        if model.identity in self._were_short and not needs.num_layers:
            # That no layer fits is not for ever.
            self._gpus = {key: ratio for key, ratio in self._gpus.items() if key[0] != model.identity}
        self._were_short.discard(model.identity)
        for name, num_bytes in gpu_bytes.items():
            if estimated.get(name):
                self._gpus[model.identity, name] = num_bytes / estimated[name]
        return self.corrected(model, needs.layers, needs.estimate, needs.shared, dict(gpu_bytes) or needs.gpu_bytes)

    def note_want(self, model: "Model", needs: Needs) -> None:
        """There was less than it needs, though there should have been enough. The second time in a row nothing is
        taken to fit any more: each attempt is a load."""
        more = _TOO_MUCH if model.identity in self._were_short else _MORE
        self._were_short.add(model.identity)
        for name in needs.estimate.gpu_bytes:
            key = model.identity, name
            self._gpus[key] = self._gpus.get(key, 1.0) * more

    def corrected(
        self,
        model: "Model",
        layers: dict[str, int],
        guess: Estimate,
        shared: list[str],
        gpu_bytes: dict[str, int] | None = None,
    ) -> Needs:
        """`gpu_bytes` where they are known; on a GPU of which nothing is known nobody can count them."""
        known = gpu_bytes or {name: size for name, size in self.gpu_bytes(model, guess).items() if name != UNNAMED_GPU}
        fixed = self._main.get((model.identity, tuple(layers.items())))
        main = guess.total_bytes if fixed is None else fixed + guess.compute_bytes + guess.cache_bytes
        return Needs({MAIN: main + sum(known.get(name, 0) for name in shared), **known}, layers, guess, shared)

    def gpu_bytes(self, model: "Model", guess: Estimate) -> dict[str, int]:
        ratios = self._gpus
        return {name: int(size * ratios.get((model.identity, name), 1)) for name, size in guess.gpu_bytes.items()}


class Demand:
    """Of one model. `gpus` are those that its layers may go to; None where that is for llama.cpp to say."""

    def __init__(
        self,
        model: "Model",
        options: EngineOptions,
        gpus: "Sequence[Device] | None",
        experience: Experience,
        details: Details | None = None,
    ) -> None:
        self.gpus = [gpu.name for gpu in gpus or ()]
        self.least_layers = 0
        self._shared = [gpu.name for gpu in gpus or () if gpu.kind == INTEGRATED]
        self._providers = {gpu.provider for gpu in gpus or ()}
        self._is_known = gpus is not None
        self._model, self._options = model, options
        self._estimator = Estimator(model, options, details)
        self._experience = experience

    @property
    def fits_layers(self) -> bool:
        """Whether the number of layers depends on what is free."""
        settings = self._estimator.settings
        return self._is_known and settings is not None and settings.fits_gpu_layers

    def of(self, free_bytes: Mapping[str, int]) -> Needs:
        layers = self._layers(free_bytes)
        guess = self._estimator.of(layers if self._is_known else None)
        return self._experience.corrected(self._model, layers, guess, self._shared)

    def options(self, layers: Mapping[str, int]) -> EngineOptions:
        """Those with which llama.cpp does what was planned."""
        settings = self._estimator.settings
        if settings is None or not self.fits_layers:
            return self._options
        from shimmy.pool.offload import as_planned

        is_whole = sum(layers.values()) == self._estimator.num_layers
        planned = as_planned(settings, layers, self.gpus, is_whole=is_whole, providers=self._providers)
        return msgspec.structs.replace(self._options, settings=msgspec.msgpack.encode(planned))

    def _layers(self, free_bytes: Mapping[str, int]) -> dict[str, int]:
        settings = self._estimator.settings
        if settings is None or not self.gpus:
            return {}
        from shimmy.pool.offload import as_many_as_fit, share

        free = {name: max(0, free_bytes.get(name, 0)) for name in self.gpus}
        # llama.cpp has a part of 0 for those that are not named.
        given = dict(zip(self.gpus, (*settings.tensor_split, *[0.0] * len(self.gpus)), strict=False))
        parts = given if settings.tensor_split and len(self.gpus) > 1 else free
        most = self._estimator.num_layers
        if not settings.fits_gpu_layers:
            number = most if settings.num_gpu_layers < 0 else min(settings.num_gpu_layers, most)
            return share(number, parts) or {self.gpus[0]: number}
        layers = as_many_as_fit(most, parts, free, self._gpu_needs)
        if sum(layers.values()) < self.least_layers:
            return share(self.least_layers, parts) or {self.gpus[0]: self.least_layers}
        return layers

    def _gpu_needs(self, layers: Mapping[str, int]) -> dict[str, int]:
        return self._experience.gpu_bytes(self._model, self._estimator.of(layers))
