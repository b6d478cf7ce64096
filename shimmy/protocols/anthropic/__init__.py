"""The Anthropic API: wire to core and back, nothing else."""

from functools import cached_property
from typing import TYPE_CHECKING

from starlette.routing import Route
from starlette.types import Scope

from shimmy.core.errors import ShimmyError
from shimmy.core.keys import infer
from shimmy.server.protocol import Protocol, route

if TYPE_CHECKING:
    from shimmy.core.operation import Operation
    from shimmy.protocols.anthropic.endpoint import Messages

__all__ = ["Anthropic"]


class Anthropic(Protocol):
    """Everything below /v1/messages has its errors, what does not exist too."""

    id_headers = (b"x-request-id", b"request-id")

    def routes(self) -> list[Route]:
        return [
            route("POST", "/v1/messages", infer, lambda: self.messages.create),
            route("POST", "/v1/messages/count_tokens", infer, lambda: self.messages.count_tokens),
        ]

    @cached_property
    def messages(self) -> "Messages":
        from shimmy.protocols.anthropic.endpoint import Messages

        return Messages(self._inference, self._settings)

    def operations(self) -> "dict[str, Operation]":
        from shimmy.protocols.anthropic.described import OPERATIONS

        return OPERATIONS

    def owns(self, scope: Scope) -> bool:
        path: str = scope["path"]
        return path == "/v1/messages" or path.startswith("/v1/messages/")

    def encode_error(self, error: ShimmyError, request_id: str) -> bytes:
        from shimmy.protocols.anthropic.errors import encode_error

        return encode_error(error, request_id)
