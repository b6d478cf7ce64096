"""Errors as Anthropic's clients expect them: the field that is wrong is in the message, as this API calls it."""

import msgspec

from shimmy.core.errors import ContextOverflow, ShimmyError

# Other 4xx are the request's fault (Anthropic API reference, Errors).
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
# What the engine names as most protocols call it.
_OWN_NAMES = (
    (".function.parameters", ".input_schema"),
    ("continue_final_message: ", "messages: the answer cannot go on from the last message: "),
)


def encode_error(error: ShimmyError, request_id: str) -> bytes:
    """The body of an error answer."""
    message = _overflow(error) + error.message
    for name, own in _OWN_NAMES:
        message = message.replace(name, own)
    kind = _TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})


def _overflow(error: ShimmyError) -> str:
    """Anthropic's own words, by which Claude Code knows that it has to shorten the conversation."""
    if not isinstance(error, ContextOverflow) or "num_prompt_tokens" not in error.details:
        return ""
    num_tokens, limit = error.details["num_prompt_tokens"], error.details["context_length"]
    return f"prompt is too long: {num_tokens} tokens > {limit} maximum; "


def encode_error_event(error: ShimmyError, request_id: str) -> bytes:
    """The same as the last event of a stream; no message_stop follows it."""
    return b"event: error\ndata: " + encode_error(error, request_id) + b"\n\n"
