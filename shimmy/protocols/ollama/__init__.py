"""Ollama's API: wire to core and back, nothing else. What a route needs is imported by its first request."""

from functools import cache
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from shimmy.core.errors import ShimmyError, Unimplemented
from shimmy.core.keys import infer, public
from shimmy.core.settings import Settings
from shimmy.server.inference import Inference

if TYPE_CHECKING:
    from shimmy.core.operation import Operation
    from shimmy.protocols.ollama.chat import Chats
    from shimmy.protocols.ollama.embed import Embeds
    from shimmy.protocols.ollama.generate import Generates
    from shimmy.protocols.ollama.models import Models
    from shimmy.server.streaming import EventStream, LongAnswer

__all__ = ["encode_error", "operations", "prepare", "routes"]

# That of Ollama whose API this is; clients ask for 0.6.4 and more.
API_VERSION = "0.12.11"
_STORE = {
    "/api/pull": "POST",
    "/api/push": "POST",
    "/api/create": "POST",
    "/api/copy": "POST",
    "/api/delete": "DELETE",
    "/api/blobs/{digest}": "POST",
}


def operations() -> "dict[str, Operation]":
    """What is to be known of the routes here, by their paths."""
    from shimmy.protocols.ollama.described import OPERATIONS

    return OPERATIONS


def prepare() -> None:
    """Imports it all, in whatever thread: for when there is time for it."""
    import shimmy.protocols.ollama.chat
    import shimmy.protocols.ollama.embed
    import shimmy.protocols.ollama.generate
    import shimmy.protocols.ollama.models  # noqa: F401


def encode_error(error: ShimmyError) -> bytes:
    """The body of an answer that is an error."""
    from shimmy.protocols.ollama.errors import encode_error

    return encode_error(error)


def routes(inference: Inference, settings: Settings) -> list[Route]:
    @cache
    def chats() -> "Chats":
        from shimmy.protocols.ollama.chat import Chats

        return Chats(inference, settings)

    @cache
    def generates() -> "Generates":
        from shimmy.protocols.ollama.generate import Generates

        return Generates(inference, settings)

    @cache
    def embeds() -> "Embeds":
        from shimmy.protocols.ollama.embed import Embeds

        return Embeds(inference)

    @cache
    def models() -> "Models":
        from shimmy.protocols.ollama.models import Models

        return Models(inference)

    @public
    async def greet(request: Request) -> Response:
        return PlainTextResponse("Ollama is running")

    @infer
    async def get_version(request: Request) -> Response:
        return Response(b'{"version":"%s"}' % API_VERSION.encode(), media_type="application/json")

    @infer
    async def chat(request: Request) -> "Response | EventStream":
        return await chats().create(request)

    @infer
    async def generate(request: Request) -> "Response | EventStream":
        return await generates().create(request)

    @infer
    async def embed(request: Request) -> "LongAnswer":
        return await embeds().create(request)

    @infer
    async def embed_one(request: Request) -> "LongAnswer":
        return await embeds().create_legacy(request)

    @infer
    async def list_models(request: Request) -> Response:
        return await models().list(request)

    @infer
    async def list_loaded(request: Request) -> Response:
        return await models().loaded(request)

    @infer
    async def show(request: Request) -> Response:
        return await models().show(request)

    @infer
    async def refuse_store(request: Request) -> Response:
        raise Unimplemented(
            f"{request.url.path} is not implemented: this server does not change its models; put .gguf files into one "
            "of its folders, and they are found"
        )

    return [
        Route("/", greet),
        Route("/api/version", get_version),
        Route("/api/chat", chat, methods=["POST"]),
        Route("/api/generate", generate, methods=["POST"]),
        Route("/api/embed", embed, methods=["POST"]),
        Route("/api/embeddings", embed_one, methods=["POST"]),
        Route("/api/tags", list_models),
        Route("/api/ps", list_loaded),
        Route("/api/show", show, methods=["POST"]),
        *(Route(path, refuse_store, methods=[method]) for path, method in _STORE.items()),
    ]
