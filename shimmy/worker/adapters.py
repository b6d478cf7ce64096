"""The LoRA adapters of a model, and which of them a request wants. Knows names and scales; what is behind a handle is
llama.cpp's (worker/llama/adapters.py).

An adapter changes what is computed for every token. So sequences whose sets of adapters differ are never in one batch
(scheduler.py), and share nothing of what was computed: their namespaces differ.
"""

from collections.abc import Sequence

from shimmy.core.errors import RequestError
from shimmy.core.ipc import Adapter
from shimmy.core.request import LoraScale

# Numbers of adapters, in order, and their scales, none of which is 0. Empty is the model as it is.
AdapterSet = tuple[tuple[int, float], ...]

# No name of a tenant has it.
_MARK = "\x01"


class Adapters:
    """In the order in which they were given, which numbers them."""

    def __init__(
        self, adapters: Sequence[Adapter] = (), handles: Sequence[int] = (), digests: Sequence[str] = ()
    ) -> None:
        """`digests` are of the files, for states that outlive this process; without any, numbers will do."""
        self.scales = {each.name: each.scale for each in adapters}
        self.handles = tuple(handles)
        self._names = list(self.scales)
        self._digests = digests or [str(number) for number in range(len(adapters))]
        self._default = _set(dict(enumerate(each.scale for each in adapters)))

    def resolve(self, asked: Sequence[LoraScale] | None) -> AdapterSet:
        """What a request wants; those that it does not name it does not want. Raises `RequestError`."""
        if asked is None:
            return self._default
        scales: dict[int, float] = {}
        for at, each in enumerate(asked):
            number = self._number(f"lora[{at}]", each)
            if number in scales:
                raise RequestError(f"lora[{at}]: {self._names[number]!r} stands there twice", param=f"lora[{at}]")
            scales[number] = each.scale
        return _set(scales)

    def namespace(self, tenant: str, adapters: AdapterSet) -> str:
        """What a tenant's requests with these adapters share."""
        return tenant + "".join(f"{_MARK}{self._digests[number]}={scale!r}" for number, scale in adapters)

    def _number(self, field: str, asked: LoraScale) -> int:
        there_are = ", ".join(self._names) or "none"
        if (asked.id is None) == (asked.name is None):
            raise RequestError(f"{field}: either an id or a name is required", param=field)
        if asked.name is not None:
            if asked.name not in self._names:
                name = asked.name[:80]
                raise RequestError(f"{field}.name: no adapter {name!r}; there are: {there_are}", param=f"{field}.name")
            return self._names.index(asked.name)
        if asked.id is None or asked.id >= len(self._names):
            raise RequestError(f"{field}.id: no adapter {asked.id}; there are: {there_are}", param=f"{field}.id")
        return asked.id


def _set(scales: dict[int, float]) -> AdapterSet:
    return tuple(sorted((number, scale) for number, scale in scales.items() if scale))
