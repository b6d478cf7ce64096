"""What comes with a model of Ollama's kind beside its weights: layers of its manifest, each a file, and what they say.
They are as untrusted as the model; how they came here is the business of others."""

import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, get_args

import msgspec

from shimmy.core.request import MAX_STOP_STRINGS, MaxTokens, Sampling, StopString, StopStrings

# What is of use here. Of the others, a template is a program for Ollama's own engine, and a projector is for images.
Kind = Literal["adapter", "license", "messages", "params", "system"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MEDIA_TYPE = "application/vnd.ollama.image."
MAX_TEXT_BYTES = 1 << 20
MAX_LAYERS = 64
MAX_TURNS = 1000
# As they are called there; the others are called as ours are.
_FIELDS = {"repeat_penalty": "repetition_penalty"} | {
    name: name
    for name in (
        *("temperature", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "presence_penalty"),
        *("frequency_penalty", "mirostat", "mirostat_tau", "mirostat_eta", "seed"),
    )
}


class Layer(msgspec.Struct, frozen=True):
    kind: Kind
    path: str


class Turn(msgspec.Struct, frozen=True):
    """Of a conversation that every one of the model's begins with."""

    role: Literal["system", "user", "assistant"]
    content: str


class Own(msgspec.Struct, frozen=True, omit_defaults=True):
    """Defaults that a model has for what a request does not say: `sampling` has fields of `Sampling`, and `system` is
    for conversations that begin with no other one. `adapters` and `licenses` are paths; `context_length` in tokens."""

    layers: tuple[Layer, ...] = ()
    sampling: dict[str, Any] = {}
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    context_length: int | None = None
    system: str = ""
    messages: tuple[Turn, ...] = ()
    adapters: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()


NOTHING = Own()


class Recipe(msgspec.Struct, frozen=True):
    """What a model is to be made of: another one, `source`, or `files`; and, where that is given, what comes with it
    then, and the type to `quantize` it to. `files` and `adapters` are digests, in 64 hex digits, by the names of the
    files."""

    name: str
    source: str | None = None
    files: dict[str, str] = {}
    adapters: dict[str, str] = {}
    system: str | None = None
    params: dict[str, Any] = {}
    messages: tuple[Turn, ...] = ()
    licenses: tuple[str, ...] = ()
    quantize: str | None = None


def kind_of(media_type: str) -> Kind | None:
    """None for a layer that is of no use here."""
    name = media_type.removeprefix(MEDIA_TYPE)
    return next((kind for kind in KINDS if kind == name), None) if name != media_type else None


def read_own(layers: Iterable[Layer]) -> Own:
    """What the layers say. Raises `ValueError` that names the layer which cannot be read."""
    return _read(tuple(layers))


# Files of such layers are called by their digest: who changes one makes another.
@lru_cache(maxsize=4096)
def _read(layers: tuple[Layer, ...]) -> Own:
    own: dict[str, Any] = {}
    for layer in layers:
        try:
            own |= _FIELDS_OF.get(layer.kind, _nothing)(layer.path)
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"its {layer.kind} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    adapters, licenses = (tuple(each.path for each in layers if each.kind == kind) for kind in ("adapter", "license"))
    return Own(layers=layers, adapters=adapters, licenses=licenses, **own) if layers else NOTHING


def read_text(path: str) -> str:
    """Raises `OSError`, `ValueError` for what is too long for a text."""
    with open(path, "rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise ValueError(f"it is longer than {MAX_TEXT_BYTES} bytes")
    return content.decode("utf-8", "replace")


def _params(path: str) -> dict[str, Any]:
    """A value that is none of its field's is as if it were not there."""
    given = msgspec.json.decode(read_text(path), type=dict[str, Any])
    own: dict[str, Any] = {"sampling": {}}
    for name, field in _FIELDS.items():
        if (value := _value(given.get(name), Sampling.__annotations__[field])) is not None:
            own["sampling"][field] = value
    stop = given.get("stop")
    stops = _value([stop] if isinstance(stop, str) else stop, list[StopString])
    own["stop"] = tuple(filter(None, stops or ()))[:MAX_STOP_STRINGS]
    own["max_tokens"] = _value(given.get("num_predict"), MaxTokens)
    own["context_length"] = _value(given.get("num_ctx"), MaxTokens)
    return own


def wrong_params(given: Mapping[str, Any]) -> list[str]:
    """The names of those that no model could have."""
    types = {name: Sampling.__annotations__[field] for name, field in _FIELDS.items()}
    types |= {"stop": StopString | StopStrings, "num_predict": int, "num_ctx": MaxTokens}
    return [name for name, type in types.items() if given.get(name) is not None and _value(given[name], type) is None]


def _value(given: Any, type: Any) -> Any:
    """None for what is none of that type."""
    if given is None:
        return None
    try:
        return msgspec.convert(given, type)
    except msgspec.ValidationError:
        return None


def _system(path: str) -> dict[str, Any]:
    return {"system": read_text(path)}


def _messages(path: str) -> dict[str, Any]:
    turns = msgspec.json.decode(read_text(path), type=tuple[Turn, ...])
    if len(turns) > MAX_TURNS:
        raise ValueError(f"there are more than {MAX_TURNS}")
    return {"messages": turns}


def _nothing(path: str) -> dict[str, Any]:
    """For what is read when it is asked for; it must be there."""
    os.stat(path)
    return {}


_FIELDS_OF: dict[str, Callable[[str], dict[str, Any]]] = {
    "params": _params,
    "system": _system,
    "messages": _messages,
}
