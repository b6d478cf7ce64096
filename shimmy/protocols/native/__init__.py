"""The API of the original Shimmy: wire to core and back, nothing else. What a route needs is imported by its first
request."""

from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shimmy.core.keys import admin, infer
from shimmy.core.settings import Settings
from shimmy.server.inference import Inference

if TYPE_CHECKING:
    from shimmy.core.operation import Operation
    from shimmy.protocols.native.generate import Generates
    from shimmy.protocols.native.models import Models
    from shimmy.server.streaming import EventStream

__all__ = ["operations", "prepare", "routes"]

Endpoint = Callable[[Request], Awaitable[Any]]


def operations() -> "dict[str, Operation]":
    """What is to be known of the routes here, by their paths."""
    from shimmy.protocols.native.described import OPERATIONS

    return OPERATIONS


def prepare() -> None:
    """Imports it all, in whatever thread: for when there is time for it."""
    import shimmy.protocols.native.generate
    import shimmy.protocols.native.models
    import shimmy.protocols.native.websocket  # noqa: F401


def routes(inference: Inference, settings: Settings, generate_otherwise: Endpoint) -> list[Route]:
    """`generate_otherwise` answers to what is posted to /api/generate in Ollama's form."""

    @cache
    def generates() -> "Generates":
        from shimmy.protocols.native.generate import Generates

        return Generates(inference, settings)

    @cache
    def models() -> "Models":
        from shimmy.protocols.native.models import Models

        return Models(inference)

    @infer
    async def generate(request: Request) -> "Response | EventStream":
        from shimmy.protocols.native.generate import is_native

        if is_native(await request.body(), request.headers.get("accept", "")):
            return await generates().create(request)
        answer: Response = await generate_otherwise(request)
        return answer

    @infer
    async def list_models(request: Request) -> Response:
        return await models().list(request)

    @infer
    async def discover(request: Request) -> Response:
        return await models().discover(request)

    @infer
    async def load(request: Request) -> Response:
        return await models().load(request)

    @admin
    async def unload(request: Request) -> Response:
        return await models().unload(request)

    @infer
    async def get_status(request: Request) -> Response:
        return await models().status(request)

    return [
        Route("/api/generate", generate, methods=["POST"]),
        Route("/api/models", list_models),
        Route("/api/models/discover", discover, methods=["POST"]),
        Route("/api/models/{name:path}/load", load, methods=["POST"]),
        Route("/api/models/{name:path}/unload", unload, methods=["POST"]),
        Route("/api/models/{name:path}/status", get_status),
    ]
