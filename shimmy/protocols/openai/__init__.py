"""The OpenAI API: wire to core and back, nothing else."""

from functools import cached_property
from typing import TYPE_CHECKING

from starlette.routing import Route
from starlette.types import Scope

from shimmy.core.errors import ShimmyError
from shimmy.core.keys import infer
from shimmy.server.protocol import Protocol, route

if TYPE_CHECKING:
    from shimmy.core.operation import Operation
    from shimmy.protocols.openai.chat import ChatCompletions
    from shimmy.protocols.openai.completions import Completions
    from shimmy.protocols.openai.embeddings import Embeddings
    from shimmy.protocols.openai.explain import Explain
    from shimmy.protocols.openai.infill import Infills
    from shimmy.protocols.openai.models import Models
    from shimmy.protocols.openai.props import Props
    from shimmy.protocols.openai.rerank import Rerank
    from shimmy.protocols.openai.responses.endpoint import Responses
    from shimmy.protocols.openai.tokens import TokenEndpoints

__all__ = ["OpenAI"]


class OpenAI(Protocol):
    """What belongs to no other protocol has its errors."""

    def routes(self) -> list[Route]:
        return [
            route("POST", "/v1/chat/completions", infer, lambda: self.chats.create),
            route("POST", "/v1/completions", infer, lambda: self.completions.create),
            route("POST", "/v1/responses", infer, lambda: self.responses.create),
            route("POST", "/v1/responses/input_tokens", infer, lambda: self.responses.count_input_tokens),
            route("GET DELETE", "/v1/responses/{id}", infer, lambda: self.responses.refuse),
            route("GET", "/v1/responses/{id}/input_items", infer, lambda: self.responses.refuse),
            route("POST", "/v1/responses/{id}/cancel", infer, lambda: self.responses.refuse),
            route("POST", "/v1/embeddings", infer, lambda: self.embeddings.create),
            route("POST", "/v1/explain", infer, lambda: self.explanations.create),
            route("GET", "/v1/models", infer, lambda: self.models.list),
            route("GET", "/v1/models/{id:path}", infer, lambda: self.models.get),
            # llama-server's own.
            route("GET", "/props", infer, lambda: self.props.get),
            route("GET", "/slots", infer, lambda: self.props.slots),
            route("POST", "/infill", infer, lambda: self.infills.create),
            route("POST", "/tokenize", infer, lambda: self.tokens.tokenize),
            route("POST", "/detokenize", infer, lambda: self.tokens.detokenize),
            route("POST", "/v1/chat/completions/input_tokens", infer, lambda: self.tokens.count),
            route("POST", "/apply-template", infer, lambda: self.tokens.apply_template),
            route("POST", "/embeddings", infer, lambda: self.embeddings.create_native),
            route("POST", "/embedding", infer, lambda: self.embeddings.create_native),
            route("POST", "/v1/rerank", infer, lambda: self.rankings.create),
            # Cohere's.
            route("POST", "/v2/rerank", infer, lambda: self.rankings.create),
            route("POST", "/rerank", infer, lambda: self.rankings.create),
            route("POST", "/v1/reranking", infer, lambda: self.rankings.create),
            route("POST", "/reranking", infer, lambda: self.rankings.create),
        ]

    @cached_property
    def chats(self) -> "ChatCompletions":
        from shimmy.protocols.openai.chat import ChatCompletions

        return ChatCompletions(self._inference, self._settings)

    @cached_property
    def completions(self) -> "Completions":
        from shimmy.protocols.openai.completions import Completions

        return Completions(self._inference, self._settings)

    @cached_property
    def responses(self) -> "Responses":
        from shimmy.protocols.openai.responses.endpoint import Responses

        return Responses(self._inference, self._settings)

    @cached_property
    def embeddings(self) -> "Embeddings":
        from shimmy.protocols.openai.embeddings import Embeddings

        return Embeddings(self._inference)

    @cached_property
    def rankings(self) -> "Rerank":
        from shimmy.protocols.openai.rerank import Rerank

        return Rerank(self._inference)

    @cached_property
    def infills(self) -> "Infills":
        from shimmy.protocols.openai.infill import Infills

        return Infills(self._inference, self._settings)

    @cached_property
    def tokens(self) -> "TokenEndpoints":
        from shimmy.protocols.openai.tokens import TokenEndpoints

        return TokenEndpoints(self._inference)

    @cached_property
    def explanations(self) -> "Explain":
        from shimmy.protocols.openai.explain import Explain

        return Explain(self._inference)

    @cached_property
    def props(self) -> "Props":
        from shimmy.protocols.openai.props import Props

        return Props(self._inference)

    @cached_property
    def models(self) -> "Models":
        from shimmy.protocols.openai.models import Models

        return Models(self._inference)

    def operations(self) -> "dict[str, Operation]":
        from shimmy.protocols.openai.described import OPERATIONS

        return OPERATIONS

    def owns(self, scope: Scope) -> bool:
        return True

    def encode_error(self, error: ShimmyError, request_id: str) -> bytes:
        from shimmy.protocols.openai.errors import encode_error

        return encode_error(error)
