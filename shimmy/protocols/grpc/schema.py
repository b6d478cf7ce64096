"""Messages as Structs whose fields carry their numbers, and such messages as bytes and back. Knows no particular one.

A field is declared as `name: Annotated[type, Field(number, kind)] = default`. Its default says how it is told apart:
None is a field of explicit presence (`optional` in the .proto, messages, members of a oneof), a list a repeated one, a
dict a map with strings as keys; all others are left out of the bytes when they are as by default.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import Any, TypeVar

import msgspec

from shimmy.core.errors import RequestError
from shimmy.protocols.grpc.wire import (
    FIXED32,
    LENGTH,
    MAX_DEPTH,
    VARINT,
    Malformed,
    Raw,
    pack_float,
    record,
    records,
    unpack_float,
    varint,
    varints,
)

# Of one message, all that it holds included: a short message may have very many fields that are nothing but a tag.
MAX_VALUES = 1 << 14

M = TypeVar("M", bound=msgspec.Struct)


class Scalar(msgspec.Struct, frozen=True):
    """How a kind of value is written; `decode` raises `Malformed`."""

    wire_type: int
    decode: Callable[[Any], Any]
    encode: Callable[[Any], Raw]


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"not valid UTF-8: {error.reason}") from None


BOOL = Scalar(VARINT, bool, int)
INT32 = Scalar(VARINT, _signed, int)
UINT32 = Scalar(VARINT, lambda value: value & 0xFFFFFFFF, int)
UINT64 = Scalar(VARINT, int, int)
ENUM = INT32
FLOAT = Scalar(FIXED32, unpack_float, pack_float)
STRING = Scalar(LENGTH, _text, str.encode)
BYTES = Scalar(LENGTH, bytes, bytes)


Kind = Scalar | type[msgspec.Struct]


class Field(msgspec.Struct, frozen=True):
    """`kind` is a scalar or the Struct of a message. Of the fields of one `oneof` the last that comes stays."""

    number: int
    kind: Kind
    oneof: str | None = None

    @property
    def wire_type(self) -> int:
        return self.kind.wire_type if isinstance(self.kind, Scalar) else LENGTH


class Slot(msgspec.Struct, frozen=True):
    """A field in its place: its name, its default, and the numbers of those it takes the place of."""

    name: str
    field: Field
    default: Any
    siblings: tuple[int, ...]

    def takes(self, wire_type: int) -> bool:
        """Whether such a value belongs here; numbers of a repeated field may come packed."""
        packed = isinstance(self.default, list) and self.field.wire_type == VARINT and wire_type == LENGTH
        return packed or wire_type == self.field.wire_type


@cache
def slots(cls: type[msgspec.Struct]) -> dict[int, Slot]:
    """The fields of a message by their numbers, in the order of these."""
    blank = cls()
    fields = {field.name: field.type.__metadata__[0] for field in msgspec.structs.fields(cls)}
    found = []
    for name, field in fields.items():
        others = (other.number for other in fields.values() if field.oneof and other.oneof == field.oneof)
        siblings = tuple(number for number in others if number != field.number)
        found.append(Slot(name, field, getattr(blank, name), siblings))
    return {slot.field.number: slot for slot in sorted(found, key=lambda slot: slot.field.number)}


def decode(cls: type[M], data: bytes) -> M:
    """Unknown fields are passed over. Raises `RequestError` for whatever is wrong with the bytes, naming the field."""
    try:
        return _Decoder().message(cls, [data], 0)
    except Malformed as error:
        path = ".".join(error.path).replace(".[", "[")
        raise RequestError(f"{path}: {error.what}" if path else error.what, param=path or None) from None


def encode(message: msgspec.Struct) -> bytes:
    """The fields in the order of their numbers."""
    return b"".join(_encoded(slot, getattr(message, slot.name)) for slot in slots(type(message)).values())


class _Decoder:
    """Decodes one message and what it holds; counts."""

    def __init__(self) -> None:
        self._num_values = 0

    def message(self, cls: type[M], parts: Sequence[bytes], depth: int) -> M:
        """A message may come in several parts, each of them a whole message; what comes last stays."""
        if depth > MAX_DEPTH:
            raise Malformed("it is nested too deeply")
        table = slots(cls)
        values: dict[str, Any] = {}
        messages: dict[str, list[bytes]] = {}
        found = chain.from_iterable(records(part, depth, self._count) for part in parts)
        for number, wire_type, raw in found:
            slot = table.get(number)
            if slot is None or not slot.takes(wire_type):
                continue
            for other in map(table.__getitem__, slot.siblings):
                values.pop(other.name, None)
                # What is not kept has to be right all the same.
                if other.name in messages:
                    self._whole(other, messages.pop(other.name), depth)
            try:
                self._take(slot, raw, values, messages, depth)
            except Malformed as error:
                raise error.within(slot.name) from None
        for slot in table.values():
            if slot.name in messages:
                values[slot.name] = self._whole(slot, messages[slot.name], depth)
        return cls(**values)

    def _whole(self, slot: Slot, parts: list[bytes], depth: int) -> msgspec.Struct:
        try:
            return self.message(_message(slot.field.kind), parts, depth + 1)
        except Malformed as error:
            raise error.within(slot.name) from None

    def _take(self, slot: Slot, raw: Any, values: dict[str, Any], messages: dict[str, list[bytes]], depth: int) -> None:
        kind = slot.field.kind
        if isinstance(slot.default, dict):
            key, value = self._entry(kind, raw, depth + 1)
            values.setdefault(slot.name, {})[key] = value
        elif isinstance(slot.default, list):
            self._extend(values.setdefault(slot.name, []), kind, raw, depth + 1)
        elif isinstance(kind, Scalar):
            values[slot.name] = kind.decode(raw)
        else:
            messages.setdefault(slot.name, []).append(raw)

    def _extend(self, values: list[Any], kind: Kind, raw: Any, depth: int) -> None:
        """An element of a repeated field, or, packed, many of them."""
        if not isinstance(kind, Scalar):
            try:
                values.append(self.message(kind, [raw], depth))
            except Malformed as error:
                raise error.within(f"[{len(values)}]") from None
        elif kind.wire_type == VARINT and isinstance(raw, bytes):
            for value in varints(raw):
                self._count()
                values.append(kind.decode(value))
        else:
            values.append(kind.decode(raw))

    def _entry(self, kind: Kind, data: bytes, depth: int) -> tuple[str, Any]:
        """A map's entry is a message with a key and a value, which is a message here."""
        key, parts = "", []
        for number, wire_type, raw in records(data, depth, self._count):
            if (number, wire_type) == (1, LENGTH):
                key = STRING.decode(raw)
            elif (number, wire_type) == (2, LENGTH) and isinstance(raw, bytes):
                parts.append(raw)
        return key, self.message(_message(kind), parts, depth + 1)

    def _count(self) -> None:
        self._num_values += 1
        if self._num_values > MAX_VALUES:
            raise Malformed(f"more than {MAX_VALUES} values in one message")


def _encoded(slot: Slot, value: Any) -> bytes:
    field = slot.field
    if isinstance(slot.default, list):
        return _repeated(field, value)
    if isinstance(slot.default, dict):
        entries = (record(1, LENGTH, key.encode()) + record(2, LENGTH, encode(each)) for key, each in value.items())
        return b"".join(record(field.number, LENGTH, entry) for entry in entries)
    if value is None or slot.default is not None and _is_zero(value):
        return b""
    return _single(field, value)


def _repeated(field: Field, values: list[Any]) -> bytes:
    if values and isinstance(field.kind, Scalar) and field.kind.wire_type == VARINT:
        return record(field.number, LENGTH, b"".join(varint(int(value)) for value in values))
    return b"".join(_single(field, value) for value in values)


def _single(field: Field, value: Any) -> bytes:
    raw = field.kind.encode(value) if isinstance(field.kind, Scalar) else encode(value)
    return record(field.number, field.wire_type, raw)


def _is_zero(value: Any) -> bool:
    """Minus zero is not left out."""
    return not value and not (isinstance(value, float) and math.copysign(1, value) < 0)


def _message(kind: Kind) -> type[msgspec.Struct]:
    if isinstance(kind, Scalar):
        raise TypeError("a message is wanted here")
    return kind
