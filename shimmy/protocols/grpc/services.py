"""Every method by its path, and what all of them share: the engine, and whether the server is leaving."""

import asyncio
from collections.abc import Callable

from starlette.types import Message, Receive

from shimmy.core.errors import Draining
from shimmy.core.settings import Settings
from shimmy.protocols.grpc import health, reflection, spindll
from shimmy.protocols.grpc.methods import Method
from shimmy.server.inference import Inference

_LOOK_SECONDS = 0.5


class Services:
    def __init__(self, inference: Inference, settings: Settings, state: Callable[[], str]) -> None:
        """`state` says "ready" when new work should be sent here, and "draining" once the server is on its way out."""
        self._state = state
        self._methods = {
            **spindll.methods(inference, settings),
            **health.methods(state),
            **reflection.methods(),
        }

    def find(self, path: str) -> Method | None:
        return self._methods.get(path)

    async def unless_draining(self, receive: Receive) -> Message:
        """What comes next from a client that may be silent for long. Raises `Draining`."""
        while True:
            if self._state() == "draining":
                raise Draining("the server is shutting down")
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    return await receive()
            except TimeoutError:
                pass
