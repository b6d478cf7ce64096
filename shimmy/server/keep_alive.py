"""How long the model of a request stays loaded after it, where its client says so: in a header, on all protocols alike,
or in a field of its body. It is told once, to the task that serves the request, and `Inference` asks for it here."""

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import Scope

HEADER = b"x-shimmy-keep-alive"

_said: ContextVar[float | None] = ContextVar("keep_alive", default=None)


def hear(scope: "Scope") -> None:
    """What the header says. Raises `RequestError` for what is no duration."""
    value = next((value for name, value in scope["headers"] if name == HEADER), None)
    _said.set(_seconds(value.decode("latin-1"), HEADER.decode()) if value is not None else None)


def hear_field(value: str | float | None, field: str) -> None:
    """What the body says counts more than the header. Raises the same."""
    if value is not None:
        _said.set(_seconds(value, field))


def said() -> float | None:
    """In seconds, `inf` for ever; None where nothing was said."""
    return _said.get()


def _seconds(value: str | float, field: str) -> float | None:
    from shimmy.core.durations import keep_alive_seconds

    return keep_alive_seconds(value, field)
