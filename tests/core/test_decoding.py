from typing import Literal

import msgspec
import pytest

from shimmy.core.decoding import decode
from shimmy.core.errors import RequestError


class Inner(msgspec.Struct):
    number: int


class Outer(msgspec.Struct):
    name: str = ""
    kind: Literal["a", "b"] = "a"
    items: list[Inner] = []
    table: dict[int, int] = {}


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"[]", None),
        (b'{"items":1}', "items"),
        (b'{"items":[{"number":1},{}]}', "items[1].number"),
        (b'{"items":[{"number":"`$.x`"}]}', "items[0].number"),
        (b'{"kind":" - at `$.name`"}', "kind"),
        (b'{"kind":"%s"}' % (b" - at `$" * 100_000), "kind"),
        (b'{"table":{"x":1}}', "table"),
        (b'{"table":{"1":"x"}}', "table[...]"),
        (b"{", None),
        (b'{"name":"\xff"}', None),
        (b'{"x":' * 100_000, None),
    ],
)
def test_whatever_is_wrong_with_the_bytes_is_a_request_error(content: bytes, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        decode(msgspec.json.Decoder(Outer), content)
    assert caught.value.param == param and len(caught.value.message) < 1000
