"""Errors as Ollama's clients expect them."""

import msgspec

from shimmy.core.errors import ShimmyError


def encode_error(error: ShimmyError) -> bytes:
    """The body of an error answer; `code` is ours."""
    return msgspec.json.encode({"error": error.message, "code": error.code})


def encode_error_line(error: ShimmyError) -> bytes:
    """The same as the last line of a stream."""
    return encode_error(error) + b"\n"
