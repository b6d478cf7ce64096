"""How long the model of a request stays loaded, where a client says so beside the body: for all protocols alike."""

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

HEADER = b"x-shimmy-keep-alive"

_said: ContextVar[float | None] = ContextVar("keep_alive", default=None)


def hear(scope: "Scope") -> None:
    """For what the task that serves the request does from now on. Raises `RequestError` for what is no duration."""
    value = next((value for name, value in scope["headers"] if name == HEADER), None)
    seconds = None
    if value is not None:
        from shimmy.core.durations import keep_alive_seconds

        seconds = keep_alive_seconds(value.decode("latin-1"), HEADER.decode())
    _said.set(seconds)


def said() -> float | None:
    """In seconds, `inf` for ever; None where nothing was said."""
    return _said.get()
