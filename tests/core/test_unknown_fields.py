"""Bodies with fields that nobody knows."""

import re
from typing import Annotated

import msgspec
import pytest
from msgspec import Meta, field

from shimmy.core.unknown_fields import MAX_NAME_CHARS, MAX_NAMES, MAX_SEARCHED_BYTES, Decoder


class Inner(msgspec.Struct, frozen=True):
    a: int


class Outer(msgspec.Struct, frozen=True, kw_only=True):
    required: int
    inner: Inner | str | None = None
    listed: Annotated[list[Inner | int], Meta(max_length=3)] | None = None
    renamed: list[Inner] = field(name="re.named", default=[])
    free: dict[str, int] = {}


SLOW, DECODER = Decoder(Outer), Decoder(Outer)
DECODER.prepare()


def unknown(**body: object) -> list[str]:
    content = msgspec.json.encode({"required": 1} | body)
    assert SLOW.decode(content)[1] == DECODER.decode(content)[1]
    return DECODER.decode(content)[1]


def test_what_is_known_is_not_named() -> None:
    given = {"inner": {"a": 1}, "listed": [{"a": 1}, 2], "re.named": [{"a": 1}], "free": {"x": 1}}
    assert unknown(**given) == []
    body, _ = DECODER.decode(msgspec.json.encode({"required": 1} | given))
    assert isinstance(body, Outer) and isinstance(body.inner, Inner) and body.free == {"x": 1}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"x": 1, "y": None}, ["x", "y"]),
        ({"inner": {"a": 1, "x": 1}}, ["inner.x"]),
        ({"listed": [1, {"a": 1, "x": 1}], "z": 1}, ["z", "listed[1].x"]),
        ({"re.named": [{"a": 1, "x": 1}]}, ["re.named[0].x"]),
        ({"x" * 200: 1}, ["x" * MAX_NAME_CHARS]),
        ({f"x{n}": 1 for n in range(100)}, [f"x{n}" for n in range(MAX_NAMES)]),
    ],
)
def test_what_is_unknown_is_named(body: dict[str, object], names: list[str]) -> None:
    assert unknown(**body) == names


def test_of_a_large_body_only_the_top_is_searched() -> None:
    assert unknown(inner="i" * MAX_SEARCHED_BYTES, listed=[{"a": 1, "x": 1}], y=1) == ["y"]


@pytest.mark.parametrize(
    "content", [b"{}", b'{"required":"1"}', b'{"x":1,"required":null}', b"{", b'{"required":1,"listed":[1,2,3,4]}']
)
def test_what_is_wrong_is_wrong(content: bytes) -> None:
    with pytest.raises(msgspec.DecodeError) as caught:
        DECODER.decode(content)
    with pytest.raises(msgspec.DecodeError, match=re.escape(str(caught.value))):
        msgspec.json.decode(content, type=Outer)
