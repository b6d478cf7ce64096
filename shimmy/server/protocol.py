"""What a protocol is to the server: a table of routes whose endpoints are imported late, and errors in its own shape.

Knows no protocol.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from shimmy.core.errors import ShimmyError
from shimmy.core.settings import Settings
from shimmy.server.inference import Inference
from shimmy.server.streaming import LongAnswer

if TYPE_CHECKING:
    from shimmy.core.operation import Operation

_ENTRIES_IN_A_ROW = 20
# Its answer is an ASGI application, such as a `Response` or an `EventStream`.
Endpoint = Callable[[Request], Awaitable[Any]]
Declare = Callable[[Endpoint], Endpoint]


class Protocol:
    """What each protocol derives its own from. The objects that have its endpoints are cached properties, which import
    their classes: so that happens at the first request that needs one, or in `prepare`."""

    # The names by which clients look for the id of their request.
    id_headers: tuple[bytes, ...] = (b"x-request-id",)

    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._settings = settings

    def prepare(self) -> None:
        """Imports all that requests may need, in whatever thread: for when there is time for it."""
        for name, attribute in vars(type(self)).items():
            if isinstance(attribute, cached_property):
                getattr(self, name)

    def routes(self) -> list[Route]:
        raise NotImplementedError

    def operations(self) -> "dict[str, Operation]":
        """What is to be known of the routes, by their paths."""
        raise NotImplementedError

    def owns(self, scope: Scope) -> bool:
        """Whether what goes wrong with a request is told as this protocol's clients expect it, route or not."""
        raise NotImplementedError

    def encode_error(self, error: ShimmyError, request_id: str) -> bytes:
        """The body of an answer that is an error."""
        raise NotImplementedError


class Upload(Route):
    """A route whose body is as large as it likes: its endpoint reads it as it comes, and sees to it that it does."""


def route(methods: str, path: str, declare: Declare, find: Callable[[], Endpoint], kind: type[Route] = Route) -> Route:
    """`methods` are one or more, with spaces between them; `declare` says for whom the route is (core/keys.py); `find`
    gives its endpoint, and is asked when that is needed."""

    async def endpoint(request: Request) -> Any:
        return await find()(request)

    made = kind(path, declare(endpoint), methods=methods.split())

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await (await made.endpoint(Request(scope, receive, send)))(scope, receive, send)

    # Starlette's looks twice whether an exception is one of its own; none is, and what is raised is the server's.
    made.app = answer
    return made


async def json_list(before: bytes, entries: Iterable[object], after: bytes) -> LongAnswer:
    """A list of any length, with what comes before and after its entries. They are made and encoded a few at a time,
    and between these everybody else has their turn."""
    pieces, remaining = [before], iter(entries)
    while few := list(islice(remaining, _ENTRIES_IN_A_ROW)):
        pieces += [msgspec.json.encode(few)[1:-1], b","]
        await asyncio.sleep(0)
    return LongAnswer([*(pieces[:-1] if len(pieces) > 1 else pieces), after])


def json_response(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
