"""JSON within a request that is kept as it was sent: of a schema the order of the properties is that of the answer."""

import msgspec

from shimmy.core.errors import RequestError
from shimmy.core.request import MAX_CONSTRAINT_BYTES

# What a field of type `Raw` has when it was not sent; the same where null was.
ABSENT = msgspec.Raw(b"null")


def absent() -> msgspec.Raw:
    """As a default: the OpenAPI document cannot say what a `Raw` is."""
    return ABSENT


def raw_text(field: str, raw: msgspec.Raw) -> str:
    """A schema for an answer. Raises `RequestError` naming `field`."""
    content = bytes(raw)
    if len(content) > MAX_CONSTRAINT_BYTES:
        raise RequestError(f"{field}: more than {MAX_CONSTRAINT_BYTES} bytes", param=field)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{field}: not valid UTF-8: {error.reason}", param=field) from None
