"""Which layers of a model go to which GPUs. Arithmetic only: what there is and what is needed, others know.

Layers are shared out as llama.cpp does it (llama-model.cpp, load_tensors): the last of a model go to GPUs, in the order
of these, and the output layer is one more.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import msgspec

from shimmy.pool.demand import INTEGRATED

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.core.ipc import Device

# As ggml calls those with memory of their own (worker/llama/devices.py).
_DISCRETE = "gpu"


def usable(devices: "Sequence[Device]", settings: "EngineSettings") -> "list[Device] | None":
    """Those that layers may go to, in llama.cpp's order; None where what is asked for is not there."""
    gpus = [device for device in devices if device.kind in (_DISCRETE, INTEGRATED)]
    if settings.device:
        by_name = {device.name.lower(): device for device in gpus}
        names = dict.fromkeys(name.lower() for name in settings.device)
        if not names.keys() <= by_name.keys():
            return None
        gpus = [by_name[name] for name in names]
    else:
        # Those of the processor are used where there are no others.
        gpus = _once([device for device in gpus if device.kind == _DISCRETE]) or _of_one_backend(gpus)
    if not gpus:
        return None if settings.needs_a_gpu else []
    if len(settings.tensor_split) > len(gpus) or (settings.main_gpu or 0) >= len(gpus):
        return None
    is_one = settings.main_gpu is not None or settings.split_mode == "none"
    return [gpus[settings.main_gpu or 0]] if is_one else gpus


def _once(gpus: "list[Device]") -> "list[Device]":
    """Without those that an earlier backend has brought already."""
    first: dict[str, Device] = {}
    for gpu in gpus:
        # Where there is no id, nobody knows better than that it is another one.
        first.setdefault(gpu.gpu_id or f"name {gpu.name}", gpu)
    return list(first.values())


def _of_one_backend(gpus: "list[Device]") -> "list[Device]":
    """Several backends bring the one that is part of the processor, without an id."""
    return [gpu for gpu in gpus if gpu.backend == gpus[0].backend]


def share(num_layers: int, parts: "Mapping[str, float]") -> dict[str, int]:
    """How many of `num_layers` each GPU gets that has such a part; none where no part is more than 0."""
    total = sum(parts.values())
    if total <= 0:
        return {}
    bounds = [bound / total for bound in accumulate(parts.values())]
    names = list(parts)
    layers = dict.fromkeys(names, 0)
    for number in range(num_layers):
        layers[names[bisect_right(bounds, number / num_layers)]] += 1
    return layers


def as_many_as_fit(
    num_layers: int,
    parts: "Mapping[str, float]",
    free_bytes: Mapping[str, int],
    needs: Callable[[Mapping[str, int]], Mapping[str, int]],
) -> dict[str, int]:
    """At most `num_layers`. `needs` says what layers take of each GPU."""

    def is_too_much(number: int) -> bool:
        layers = share(number, parts)
        # What is taken of others, which may not even be there, is not for their number to change.
        return not layers or any(needed > free_bytes[name] for name, needed in needs(layers).items() if name in layers)

    number = bisect_left(range(1, num_layers + 1), True, key=is_too_much)
    return share(number, parts) if number else {}


def as_planned(
    settings: "EngineSettings",
    layers: Mapping[str, int],
    gpus: "Sequence[str]",
    *,
    is_whole: bool,
    providers: Collection[str] = (),
) -> "EngineSettings":
    """The settings that make llama.cpp do what was planned for `gpus`; `is_whole` where that is all layers that it may
    find. Without a layer nothing of GPUs is opened, and no other backend than theirs if there is one that brings all:
    another one may be broken."""
    if not any(layers.values()):
        none = {"device": (), "gpu_backend": None, "split_mode": None, "main_gpu": None, "tensor_split": ()}
        return msgspec.structs.replace(settings, gpu_layers=0, **none)
    parts = tuple(float(layers.get(name, 0)) for name in gpus)
    is_split = len(gpus) > 1
    [provider] = providers if len(providers) == 1 else [""]
    return msgspec.structs.replace(
        settings,
        gpu_layers="all" if is_whole else sum(layers.values()),
        device=tuple(gpus),
        gpu_backend=provider or settings.gpu_backend,
        split_mode=settings.split_mode if is_split else None,
        main_gpu=None,
        tensor_split=parts if is_split else (),
    )
