"""What the calls that generate have in common with a `Generation`: messages, parameters within their ranges, keys."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shimmy.core.errors import RequestError
from shimmy.core.request import (
    MAX_MESSAGES,
    Chat,
    MaxTokens,
    Message,
    Probability,
    Sampling,
    Secret,
    StopStrings,
    Temperature,
    TopK,
)
from shimmy.protocols.grpc import messages

# Spindll's own, where a client does not say.
DEFAULT_MAX_TOKENS = 512
DEFAULT_SEED = 42

_KEY_BYTES = 32
_LAST_SEED = 2**63 - 1
_AT = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class Params(msgspec.Struct, frozen=True):
    """The ranges of a `GenerateParams`."""

    temperature: Temperature | None
    top_p: Probability | None
    top_k: TopK | None
    max_tokens: MaxTokens | None
    stop: StopStrings


class Turn(msgspec.Struct, frozen=True):
    role: Role
    content: str


class Turns(msgspec.Struct, frozen=True):
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=MAX_MESSAGES)]


def params(given: messages.GenerateParams) -> dict[str, Any]:
    """The fields of a `Generation` that say how it goes on. Raises `RequestError`."""
    checked = _checked(Params, given, "params")
    seed = DEFAULT_SEED if given.seed is None else given.seed & _LAST_SEED
    return {
        "sampling": Sampling.of(temperature=checked.temperature, top_p=checked.top_p, top_k=checked.top_k, seed=seed),
        "max_tokens": DEFAULT_MAX_TOKENS if checked.max_tokens is None else checked.max_tokens,
        "stop": [string for string in checked.stop if string],
    }


def chat(given: list[messages.Message]) -> Chat:
    """Raises `RequestError` for no messages, and for a role that there is not."""
    checked = _checked(Turns, {"messages": given}, "")
    # A developer message is OpenAI's newer name for a system message; templates know the older one.
    roles = ("system" if turn.role == "developer" else turn.role for turn in checked.messages)
    return Chat([Message(role, turn.content) for role, turn in zip(roles, checked.messages, strict=True)])


def secret(key: bytes) -> Secret | None:
    if len(key) not in (0, _KEY_BYTES):
        raise RequestError(f"encryption_key: {_KEY_BYTES} bytes, not {len(key)}", param="encryption_key")
    return Secret(key) if key else None


def _checked(cls: Any, given: object, within: str) -> Any:
    try:
        return msgspec.convert(given, cls, from_attributes=True)
    except msgspec.ValidationError as error:
        match = _AT.match(str(error))
        what, path = (match["what"], match["path"]) if match else (str(error), "")
        param = ".".join(part for part in (within, path) if part)
        raise RequestError(f"{param}: {what}", param=param) from None
