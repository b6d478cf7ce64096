"""The Anthropic API: wire to core and back, nothing else."""

from functools import cached_property
from typing import TYPE_CHECKING

from starlette.routing import Match, Route
from starlette.types import Scope

from shimmy.core.errors import ShimmyError
from shimmy.core.keys import infer
from shimmy.server.protocol import Protocol, route

if TYPE_CHECKING:
    from shimmy.core.operation import Operation
    from shimmy.protocols.anthropic.endpoint import Messages
    from shimmy.protocols.anthropic.models import Models

__all__ = ["Anthropic"]


class _Versioned(Route):
    """For requests with the header that only this API's clients send, where another API has the same path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if _is_versioned(scope) else (Match.NONE, {})


class Anthropic(Protocol):
    """Everything below /v1/messages has its errors, what does not exist too, and what its clients ask of /v1/models."""

    id_headers = (b"x-request-id", b"request-id")

    def routes(self) -> list[Route]:
        return [
            route("POST", "/v1/messages", infer, lambda: self.messages.create),
            route("POST", "/v1/messages/count_tokens", infer, lambda: self.messages.count_tokens),
            route("GET", "/v1/models", infer, lambda: self.models.list, _Versioned),
            route("GET", "/v1/models/{id:path}", infer, lambda: self.models.get, _Versioned),
        ]

    @cached_property
    def messages(self) -> "Messages":
        from shimmy.protocols.anthropic.endpoint import Messages

        return Messages(self._inference, self._settings)

    @cached_property
    def models(self) -> "Models":
        from shimmy.protocols.anthropic.models import Models

        return Models(self._inference)

    def operations(self) -> "dict[str, Operation]":
        from shimmy.protocols.anthropic.described import OPERATIONS

        return OPERATIONS

    def owns(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return _is_within(path, "/v1/messages") or (_is_within(path, "/v1/models") and _is_versioned(scope))

    def encode_error(self, error: ShimmyError, request_id: str) -> bytes:
        from shimmy.protocols.anthropic.errors import encode_error

        return encode_error(error, request_id)


def _is_versioned(scope: Scope) -> bool:
    return any(name == b"anthropic-version" for name, _ in scope["headers"])


def _is_within(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
