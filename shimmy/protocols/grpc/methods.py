"""What a method is, whatever its service: which messages it takes and who answers them."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import msgspec
from starlette.types import Scope

from shimmy.core.keys import Scope as KeyScope

# Messages; bytes are one that is encoded already.
Reply = AsyncGenerator[msgspec.Struct | bytes, None]
# What answers gets the request and the call's ASGI scope.
One = Callable[[Any, Scope], Awaitable[msgspec.Struct]]
Many = Callable[[Any, Scope], Reply]


class Method(msgspec.Struct, frozen=True):
    """One request and any number of messages back; with `conversation` any number of requests, each of which is
    answered before the next is read. `needed_scope` is what a key must have for it."""

    request: type[msgspec.Struct]
    answer: Many
    conversation: bool = False
    needed_scope: KeyScope = "infer"


def unary(request: type[msgspec.Struct], one: One, needed_scope: KeyScope = "infer") -> Method:
    """One request and one message back."""

    async def answer(message: Any, scope: Scope) -> Reply:
        yield await one(message, scope)

    return Method(request, answer, needed_scope=needed_scope)
