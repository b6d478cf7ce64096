"""The Anthropic API: wire to core and back, nothing else. What a route needs is imported by its first request."""

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
    from shimmy.core.operation import Operation
    from shimmy.protocols.anthropic.endpoint import Messages
    from shimmy.server.streaming import EventStream

__all__ = ["PATH", "REQUEST_ID", "encode_error", "operations", "prepare", "routes"]

# Everything below it has this protocol's errors, what does not exist too.
PATH = "/v1/messages"
# The header that the SDKs read the request's id from.
REQUEST_ID = b"request-id"


def prepare() -> None:
    """Imports it all, in whatever thread: for when there is time for it."""
    import shimmy.protocols.anthropic.endpoint  # noqa: F401


def operations() -> "dict[str, Operation]":
    """What is to be known of the routes here, by their paths."""
    from shimmy.protocols.anthropic.described import OPERATIONS

    return OPERATIONS


def encode_error(error: ShimmyError, request_id: str) -> bytes:
    """The body of an answer that is an error."""
    from shimmy.protocols.anthropic.errors import encode_error

    return encode_error(error, request_id)


def routes(inference: Inference, settings: Settings) -> list[Route]:
    @cache
    def messages() -> "Messages":
        from shimmy.protocols.anthropic.endpoint import Messages

        return Messages(inference, settings)

    @infer
    async def create_message(request: Request) -> "Response | EventStream":
        return await messages().create(request)

    @infer
    async def count_tokens(request: Request) -> Response:
        return await messages().count_tokens(request)

    return [
        Route(PATH, create_message, methods=["POST"]),
        Route(f"{PATH}/count_tokens", count_tokens, methods=["POST"]),
    ]
