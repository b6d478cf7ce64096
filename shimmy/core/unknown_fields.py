"""Reads JSON into a Struct, and names the fields in it that the Struct does not have.

Where all are known that costs nothing: the same type, but refusing what it does not know, is tried first. Making that
type takes milliseconds, so until `prepare` was called every body is searched. Knows no protocol; what is done with the
names is for others to say.
"""

import types
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, Union, cast, get_args, get_origin

import msgspec

T = TypeVar("T")

# Of a body with more bytes only the fields at the top are looked at, as others have their turn.
MAX_SEARCHED_BYTES = 256 << 10
MAX_NAMES = 32
MAX_NAME_CHARS = 80


class Shape(NamedTuple):
    """What is known of a value: which Struct it is if it is an object, and if it is an array, what its items are."""

    struct: Any
    items: "Shape | None"


Place = tuple[str, Any, Any]  # a path, the value there, and its shape


class Decoder(Generic[T]):
    """For one type of body, a Struct that does not contain itself."""

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._lenient = msgspec.json.Decoder(kind)
        self._strict: msgspec.json.Decoder[T] | None = None
        _decoders.append(self)

    def prepare(self) -> None:
        self._strict = self._strict or msgspec.json.Decoder(_refusing(cast(Any, self._kind)))

    def decode(self, content: bytes) -> tuple[T, list[str]]:
        """The body, and the unknown fields as paths such as "messages[0].foo", the first `MAX_NAMES` of them. Raises
        what msgspec raises."""
        if self._strict is not None:
            try:
                return self._strict.decode(content), []
            except msgspec.ValidationError:
                pass
        return self._lenient.decode(content), self._unknown(content)

    def _unknown(self, content: bytes) -> list[str]:
        if len(content) > MAX_SEARCHED_BYTES:
            names: Iterator[str]
            top = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            names = (name for name in top if name not in _fields(cast(Any, self._kind)))
        else:
            names = _names(msgspec.json.decode(content), self._kind)
        return [name for name, _ in zip(names, range(MAX_NAMES), strict=False)]


_decoders: list[Decoder[Any]] = []


def prepare() -> None:
    """Makes all decoders fast; for when there is time for it."""
    for decoder in _decoders:
        decoder.prepare()


def _names(body: Any, kind: Any) -> Iterator[str]:
    waiting: list[Place] = [("", body, _shape(kind))]
    while waiting:
        places: list[Place] = []
        for path, value, shape in waiting:
            if isinstance(value, dict) and shape.struct is not None:
                fields = _fields(shape.struct)
                prefix = f"{path}." if path else ""
                for name, inner in value.items():
                    if name not in fields:
                        yield prefix + name[:MAX_NAME_CHARS]
                    elif (known := fields[name]) is not None:
                        places.append((prefix + name, inner, known))
            elif isinstance(value, list) and shape.items is not None:
                places += [(f"{path}[{at}]", item, shape.items) for at, item in enumerate(value)]
        waiting = places


@cache
def _fields(struct: Any) -> dict[str, Shape | None]:
    return {field.encode_name: _shape(field.type) for field in msgspec.structs.fields(struct)}


def _shape(kind: Any) -> Shape | None:
    """None where there is no Struct to look into, or where there are several, whose fields differ."""
    alternatives = list(_alternatives(kind))
    structs = [each for each in alternatives if _is_struct(each)]
    lists = [_shape(get_args(each)[0]) for each in alternatives if get_origin(each) is list]
    struct, items = structs[0] if len(structs) == 1 else None, lists[0] if len(lists) == 1 else None
    return Shape(struct, items) if struct is not None or items is not None else None


def _alternatives(kind: Any) -> Iterator[Any]:
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _alternatives(get_args(kind)[0])
    elif origin in (Union, types.UnionType):
        for each in get_args(kind):
            yield from _alternatives(each)
    else:
        yield kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


@cache
def _refusing(struct: Any) -> Any:
    """A subclass that refuses unknown fields, as do all Structs within."""
    changed: list[Any] = []
    for field in msgspec.structs.fields(struct):
        if (inner := _with_refusing(field.type)) is not field.type:
            own = msgspec.field(name=field.encode_name, **_default(field))
            changed.append((field.name, inner, own))
    options: dict[str, Any] = {"frozen": struct.__struct_config__.frozen, "kw_only": True}
    return msgspec.defstruct(struct.__name__, changed, bases=(struct,), forbid_unknown_fields=True, **options)


def _default(field: msgspec.structs.FieldInfo) -> dict[str, Any]:
    if field.default_factory is not msgspec.NODEFAULT:
        return {"default_factory": field.default_factory}
    return {} if field.default is msgspec.NODEFAULT else {"default": field.default}


def _with_refusing(kind: Any) -> Any:
    """The same type with such subclasses in it; the type itself where it has no Structs."""
    if _is_struct(kind):
        return _refusing(kind)
    origin, given = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner = _with_refusing(given[0])
        return kind if inner is given[0] else Annotated[(inner, *given[1:])]
    if origin not in (Union, types.UnionType, list, dict):
        return kind
    changed = tuple(_with_refusing(each) for each in given)
    if all(new is old for new, old in zip(changed, given, strict=True)):
        return kind
    if origin is list or origin is dict:
        return cast(Any, origin)[changed]
    return Union[changed]  # noqa: UP007 - of types that are only known here
