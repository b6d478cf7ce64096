"""What a client says of how its messages are rendered, in vLLM's and llama-server's names."""

from typing import Any

import msgspec

from shimmy.core.errors import RequestError, TooLarge
from shimmy.core.request import MAX_TEMPLATE_VARIABLES_BYTES, TEMPLATE_VARIABLES

MAX_DEPTH = 32
_FIELD = "chat_template_kwargs"


def template_fields(
    kwargs: dict[str, Any] | None, add_generation_prompt: bool | None, continue_final_message: bool | None
) -> dict[str, Any]:
    """The fields of a `Chat`. A last message of the assistant's is only gone on with where that is asked for, and then
    nothing says that the assistant speaks."""
    if add_generation_prompt and continue_final_message:
        field = "add_generation_prompt"
        raise RequestError(f"{field}: cannot be true together with continue_final_message", param=field)
    return {
        "template_kwargs": _checked(kwargs or {}),
        "continue_final": bool(continue_final_message),
        "add_generation_prompt": add_generation_prompt is not False and not continue_final_message,
    }


def _checked(kwargs: dict[str, Any]) -> dict[str, Any]:
    for name in kwargs:
        if name not in TEMPLATE_VARIABLES:
            field = f"chat_template_kwargs.{name[:64]}"
            raise RequestError(
                f"{field}: there is no such variable; docs/templates.md has those there are", param=field
            )
    if len(_encoded(kwargs)) > MAX_TEMPLATE_VARIABLES_BYTES:
        raise TooLarge(f"{_FIELD}: more than {MAX_TEMPLATE_VARIABLES_BYTES} bytes", param=_FIELD)
    return kwargs


def _encoded(kwargs: dict[str, Any]) -> bytes:
    """As it will travel to the worker, which must be able to read it."""
    if _depth(kwargs, MAX_DEPTH) > MAX_DEPTH:
        raise RequestError(f"{_FIELD}: nested more than {MAX_DEPTH} times", param=_FIELD)
    try:
        return msgspec.msgpack.encode(kwargs)
    except (OverflowError, UnicodeEncodeError) as error:
        raise RequestError(f"{_FIELD}: {error}", param=_FIELD) from None


def _depth(value: Any, limit: int) -> int:
    """How deeply it is nested, or `limit` + 1 where that is more."""
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if limit < 0:
        return 0
    return 1 + max((_depth(item, limit - 1) for item in items), default=-1)
