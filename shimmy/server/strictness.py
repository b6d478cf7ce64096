"""A request's body as a Struct, and what is done with fields that nobody knows: they are named in a header of the
answer, or, for who asks for that, they are an error. Knows no wire format."""

from collections.abc import Sequence
from typing import TypeVar
from urllib.parse import quote

from starlette.requests import HTTPConnection, Request

from shimmy.core.decoding import decode
from shimmy.core.errors import RequestError
from shimmy.core.unknown_fields import Decoder

T = TypeVar("T")

HEADER = b"x-shimmy-ignored"


async def read(request: Request, decoder: Decoder[T]) -> T:
    """The body; what of it is unknown is noted. Raises `RequestError` like `decode`, and like `note`."""
    body, unknown = decode(decoder, await request.body())
    note(request, unknown)
    return body


def note(request: Request, unknown: Sequence[str]) -> None:
    """Names unknown fields in the answer's headers. Raises what `check` raises."""
    check(request, unknown)
    if unknown:
        # As in a URL where it is no plain text: names are the client's, and a header has its own rules.
        shown = ", ".join(quote(name, safe=" []._-:/$") for name in unknown)
        request.state.headers.append((HEADER, shown.encode()))


def check(connection: HTTPConnection, unknown: Sequence[str]) -> None:
    """Raises `RequestError` where there are some, and what asks is to be taken strictly."""
    if unknown and _is_strict(connection):
        raise RequestError(f"unknown fields, in a strict request: {', '.join(unknown)}", param=unknown[0])


def _is_strict(connection: HTTPConnection) -> bool:
    asked = (connection.query_params.get("strict"), connection.headers.get("x-shimmy-strict"))
    return any(value is not None and value.lower() not in ("", "0", "false") for value in asked)
