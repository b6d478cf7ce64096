"""The OpenAI API: wire to core and back, nothing else. What a route needs is imported by its first request."""

from functools import cache
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shimmy.core.errors import ShimmyError
from shimmy.core.keys import infer
from shimmy.core.settings import Settings
from shimmy.server.inference import Inference

if TYPE_CHECKING:
    from shimmy.protocols.openai.chat import ChatCompletions
    from shimmy.protocols.openai.completions import Completions
    from shimmy.protocols.openai.models import Models
    from shimmy.server.streaming import EventStream

__all__ = ["encode_error", "prepare", "routes"]


def prepare() -> None:
    """Imports it all, in whatever thread: for when there is time for it."""
    import shimmy.protocols.openai.chat
    import shimmy.protocols.openai.completions
    import shimmy.protocols.openai.models  # noqa: F401


def encode_error(error: ShimmyError) -> bytes:
    """The body of an answer that is an error."""
    from shimmy.protocols.openai.errors import encode_error

    return encode_error(error)


def routes(inference: Inference, settings: Settings) -> list[Route]:
    @cache
    def chat_completions() -> "ChatCompletions":
        from shimmy.protocols.openai.chat import ChatCompletions

        return ChatCompletions(inference, settings)

    @cache
    def completions() -> "Completions":
        from shimmy.protocols.openai.completions import Completions

        return Completions(inference, settings)

    @cache
    def models() -> "Models":
        from shimmy.protocols.openai.models import Models

        return Models(inference)

    @infer
    async def create_chat_completion(request: Request) -> "Response | EventStream":
        return await chat_completions().create(request)

    @infer
    async def create_completion(request: Request) -> "Response | EventStream":
        return await completions().create(request)

    @infer
    async def list_models(request: Request) -> Response:
        return await models().list(request)

    @infer
    async def get_model(request: Request) -> Response:
        return await models().get(request)

    return [
        Route("/v1/chat/completions", create_chat_completion, methods=["POST"]),
        Route("/v1/completions", create_completion, methods=["POST"]),
        Route("/v1/models", list_models),
        Route("/v1/models/{id:path}", get_model),
    ]
