"""Errors as OpenAI's clients expect them."""

import msgspec

from shimmy.core.errors import ShimmyError

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
