"""What is done with the fields of a request that nobody knows: they are named in a header of the answer, or, for who
asks for that, they are an error. Knows no wire format."""

from collections.abc import Sequence
from urllib.parse import quote

from starlette.requests import Request

from shimmy.core.errors import RequestError

HEADER = b"x-shimmy-ignored"


def note(request: Request, unknown: Sequence[str]) -> None:
    """Raises `RequestError` for a request that is to be taken strictly."""
    if not unknown:
        return
    if _is_strict(request):
        raise RequestError(f"unknown fields, in a strict request: {', '.join(unknown)}", param=unknown[0])
    # As in a URL where it is no plain text: names are the client's, and a header has its own rules.
    shown = ", ".join(quote(name, safe=" []._-:/$") for name in unknown)
    request.state.headers.append((HEADER, shown.encode()))


def _is_strict(request: Request) -> bool:
    asked = (request.query_params.get("strict"), request.headers.get("x-shimmy-strict"))
    return any(value is not None and value.lower() not in ("", "0", "false") for value in asked)
