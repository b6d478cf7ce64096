"""Errors as OpenAI's clients expect them, and a request's body as a Struct or such an error."""

from typing import TypeVar

import msgspec
from starlette.requests import Request

from shimmy.core.decoding import decode
from shimmy.core.errors import ShimmyError
from shimmy.core.unknown_fields import Decoder
from shimmy.server.strictness import note

T = TypeVar("T")

# type by status, as the SDKs' exception classes are (openai/_exceptions.py), timeouts as Anthropic has them; other 4xx
# are the request's fault
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


def encode_error(error: ShimmyError) -> bytes:
    """The body of an error answer."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
    )


def encode_error_event(error: ShimmyError) -> bytes:
    """The same as the last event of a stream; no [DONE] follows it."""
    return b"data: " + encode_error(error) + b"\n\n"


async def read(request: Request, decoder: Decoder[T]) -> T:
    """The request's body; what of it is unknown is noted. Raises `RequestError` like `decode`."""
    body, unknown = decode(decoder, await request.body())
    note(request, unknown)
    return body
