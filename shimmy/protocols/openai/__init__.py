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
    from shimmy.protocols.openai.embeddings import Embeddings
    from shimmy.protocols.openai.infill import Infills
    from shimmy.protocols.openai.models import Models
    from shimmy.protocols.openai.rerank import Rerank
    from shimmy.protocols.openai.tokens import TokenEndpoints
    from shimmy.server.streaming import EventStream, LongAnswer

__all__ = ["encode_error", "prepare", "routes"]


# All of llama-server's.
_RERANK = ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking")


def prepare() -> None:
    """Imports it all, in whatever thread: for when there is time for it."""
    import shimmy.protocols.openai.chat
    import shimmy.protocols.openai.completions
    import shimmy.protocols.openai.embeddings
    import shimmy.protocols.openai.infill
    import shimmy.protocols.openai.models
    import shimmy.protocols.openai.rerank
    import shimmy.protocols.openai.tokens  # noqa: F401


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
    def infills() -> "Infills":
        from shimmy.protocols.openai.infill import Infills

        return Infills(inference, settings)

    @cache
    def token_endpoints() -> "TokenEndpoints":
        from shimmy.protocols.openai.tokens import TokenEndpoints

        return TokenEndpoints(inference)

    @cache
    def embeddings() -> "Embeddings":
        from shimmy.protocols.openai.embeddings import Embeddings

        return Embeddings(inference)

    @cache
    def rerank() -> "Rerank":
        from shimmy.protocols.openai.rerank import Rerank

        return Rerank(inference)

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
    async def create_infill(request: Request) -> "Response | EventStream":
        return await infills().create(request)

    @infer
    async def tokenize(request: Request) -> Response:
        return await token_endpoints().tokenize(request)

    @infer
    async def detokenize(request: Request) -> Response:
        return await token_endpoints().detokenize(request)

    @infer
    async def apply_template(request: Request) -> Response:
        return await token_endpoints().apply_template(request)

    @infer
    async def create_embeddings(request: Request) -> "LongAnswer":
        return await embeddings().create(request)

    @infer
    async def create_native_embeddings(request: Request) -> "LongAnswer":
        return await embeddings().create_native(request)

    @infer
    async def create_ranking(request: Request) -> Response:
        return await rerank().create(request)

    @infer
    async def list_models(request: Request) -> Response:
        return await models().list(request)

    @infer
    async def get_model(request: Request) -> Response:
        return await models().get(request)

    return [
        Route("/v1/chat/completions", create_chat_completion, methods=["POST"]),
        Route("/v1/completions", create_completion, methods=["POST"]),
        Route("/infill", create_infill, methods=["POST"]),
        Route("/tokenize", tokenize, methods=["POST"]),
        Route("/detokenize", detokenize, methods=["POST"]),
        Route("/apply-template", apply_template, methods=["POST"]),
        Route("/v1/embeddings", create_embeddings, methods=["POST"]),
        *(Route(path, create_native_embeddings, methods=["POST"]) for path in ("/embeddings", "/embedding")),
        *(Route(path, create_ranking, methods=["POST"]) for path in _RERANK),
        Route("/v1/models", list_models),
        Route("/v1/models/{id:path}", get_model),
    ]
