"""How a call ended, as the trailers say it: gRPC's status codes for our errors."""

import math

from shimmy.core import errors
from shimmy.core.errors import ShimmyError

Header = tuple[bytes, bytes]

# https://grpc.github.io/grpc/core/md_doc_statuscodes.html
OK, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND, PERMISSION_DENIED = 0, 3, 4, 5, 7
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, UNAUTHENTICATED = (
    8,
    9,
    12,
    13,
    14,
    15,
    16,
)

# The nearest class of an error's own and its bases decides.
CODES: dict[type[ShimmyError], int] = {
    ShimmyError: INTERNAL,
    errors.RequestError: INVALID_ARGUMENT,
    errors.TooLarge: RESOURCE_EXHAUSTED,
    errors.RequestTimeout: DEADLINE_EXCEEDED,
    errors.Unauthorized: UNAUTHENTICATED,
    errors.Forbidden: PERMISSION_DENIED,
    errors.NotFound: NOT_FOUND,
    errors.MethodNotAllowed: UNIMPLEMENTED,
    errors.Unimplemented: UNIMPLEMENTED,
    errors.ModelInvalid: FAILED_PRECONDITION,
    errors.ModelInUse: FAILED_PRECONDITION,
    errors.QueueTimeout: RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: DEADLINE_EXCEEDED,
    errors.Busy: RESOURCE_EXHAUSTED,
    errors.RateLimited: RESOURCE_EXHAUSTED,
    errors.Unavailable: UNAVAILABLE,
    errors.ModelFailed: INTERNAL,
    errors.WorkerLost: UNAVAILABLE,
    errors.PullFailed: UNAVAILABLE,
    errors.DigestMismatch: DATA_LOSS,
    errors.StoreFailed: INTERNAL,
    errors.StoreFull: RESOURCE_EXHAUSTED,
}
# Clients refuse trailers of more than 8 KiB in all.
_MAX_MESSAGE_BYTES = 4096

SUCCESS: list[Header] = [(b"grpc-status", b"0")]


def code_of(error: ShimmyError) -> int:
    return next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)


def trailers(error: ShimmyError) -> list[Header]:
    """With our own code, the field that is wrong, and how long a client should wait before it tries again (gRFC A6)."""
    found = [(b"grpc-status", b"%d" % code_of(error)), (b"grpc-message", percent_encoded(error.message))]
    found.append((b"error-code", error.code.encode()))
    if error.param is not None:
        found.append((b"error-param", percent_encoded(error.param)))
    seconds = error.details.get("retry_after_seconds")
    if seconds is not None:
        found.append((b"grpc-retry-pushback-ms", b"%d" % math.ceil(seconds * 1000)))
    return found


def percent_encoded(text: str) -> bytes:
    """As the header grpc-message has it: UTF-8, all but printable ASCII escaped. What is too long is cut off."""
    pieces = (_escaped(char) for char in text[:_MAX_MESSAGE_BYTES])
    encoded = b""
    for piece in pieces:
        if len(encoded) + len(piece) > _MAX_MESSAGE_BYTES:
            break
        encoded += piece
    return encoded


def _escaped(char: str) -> bytes:
    if " " <= char <= "~" and char != "%":
        return char.encode()
    return b"".join(b"%%%02X" % byte for byte in char.encode("utf-8", "replace"))
