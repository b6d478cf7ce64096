"""The API of the original Shimmy: wire to core and back, nothing else."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shimmy.core.keys import admin, infer
from shimmy.core.settings import Settings
from shimmy.server.inference import Inference
from shimmy.server.protocol import Endpoint, Protocol, route

if TYPE_CHECKING:
    from shimmy.core.operation import Operation
    from shimmy.protocols.native.generate import Generates
    from shimmy.protocols.native.models import Models
    from shimmy.protocols.native.websocket import Conversation

__all__ = ["WEBSOCKET", "Native"]

WEBSOCKET = "/ws/generate"


class Native(Protocol):
    """Its errors are Ollama's, with which it shares its paths."""

    def __init__(self, inference: Inference, settings: Settings, otherwise: Callable[[], Endpoint]) -> None:
        """`otherwise` finds the endpoint for what is posted to /api/generate in Ollama's form."""
        super().__init__(inference, settings)
        self._otherwise = otherwise

    def routes(self) -> list[Route]:
        return [
            route("POST", "/api/generate", infer, lambda: self.generates.create),
            route("GET", "/api/models", infer, lambda: self.models.list),
            route("POST", "/api/models/discover", infer, lambda: self.models.discover),
            route("POST", "/api/models/{name:path}/load", infer, lambda: self.models.load),
            route("POST", "/api/models/{name:path}/unload", admin, lambda: self.models.unload),
            route("GET", "/api/models/{name:path}/status", infer, lambda: self.models.status),
        ]

    async def converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A connection to `WEBSOCKET`."""
        await self.conversation(self._inference, self._settings, scope, receive, send).run()

    @cached_property
    def generates(self) -> "Generates":
        from shimmy.protocols.native.generate import Generates

        return Generates(self._inference, self._settings, self._otherwise)

    @cached_property
    def models(self) -> "Models":
        from shimmy.protocols.native.models import Models

        return Models(self._inference)

    @cached_property
    def conversation(self) -> "type[Conversation]":
        from shimmy.protocols.native.websocket import Conversation

        return Conversation

    def operations(self) -> "dict[str, Operation]":
        from shimmy.protocols.native.described import OPERATIONS

        return OPERATIONS

    def owns(self, scope: Scope) -> bool:
        return False
