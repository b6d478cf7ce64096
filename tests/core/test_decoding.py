from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.decoding import decode
from shimmy.core.errors import RequestError


class Numbers(msgspec.Struct):
    whole: int = 0
    other: float = 0.0
    kind: Literal[0, 1] | None = None
    limit: Annotated[int, msgspec.Meta(ge=-1, le=9)] | Literal["all"] = 0
    mixed: list[str | int | list[int]] = []
    raw: msgspec.Raw = msgspec.Raw(b"null")


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


def numbers(content: bytes) -> tuple[Any, ...]:
    read = decode(msgspec.json.Decoder(Numbers), content)
    return (*msgspec.structs.astuple(read)[:-1], bytes(read.raw))


WHOLE = st.integers(-(2**53), 2**53)


@given(
    whole=WHOLE, other=WHOLE, kind=st.sampled_from([0, 1]), limit=st.integers(-1, 9), ids=st.lists(WHOLE, max_size=3)
)
def test_a_whole_number_may_be_written_as_a_float(
    whole: int, other: int, kind: int, limit: int, ids: list[int]
) -> None:
    said = {"whole": whole, "other": other, "kind": kind, "limit": limit, "mixed": [*ids, ids, "1.0"]}
    floats = {name: float(value) for name, value in said.items() if isinstance(value, int)}
    mixed = [*map(float, ids), list(map(float, ids)), "1.0"]
    read = numbers(msgspec.json.encode({**floats, "mixed": mixed}))
    assert read == numbers(msgspec.json.encode(said))
    assert [type(each) for each in read[:1] + read[2:4]] == [int] * 3


def test_of_a_body_with_such_numbers_the_rest_stays_as_it_was() -> None:
    raw = b'{"z":0.10,"a":1e400,"b":[12345678901234567890.0,"1.0"]}'
    assert numbers(b'{"whole":1e2,"other":0.5,"raw":%s}' % raw) == (100, 0.5, None, 0, [], raw)


@pytest.mark.parametrize(
    ("content", "param", "said"),
    [
        (b'{"whole":1.5}', "whole", "got `float`"),
        (b'{"whole":2.0,"mixed":["a",[0.5]]}', "mixed[1][0]", "got `float`"),
        (b'{"whole":1e300}', "whole", "got `float`"),
        (b'{"whole":"1.0"}', "whole", "got `str`"),
        (b'{"whole":true}', "whole", "got `bool`"),
        (b'{"limit":10.0}', "limit", "<= 9"),
        (b'{"kind":2.0}', "kind", "enum value 2"),
        (b'{"mixed":[%s1.0]}' % (b"1," * 100_000), "mixed[100000]", "got `float`"),
        # Nor is what would take long to look at.
        (b'{"whole":1.0,"raw":[%s]}' % b",".join([b"9" * 4000] * 100), "whole", "got `float`"),
        (b'{"whole":1.0,"raw":%s}' % (b"9" * 5000), "whole", "got `float`"),
    ],
)
def test_what_is_no_whole_number_is_refused_by_its_field(content: bytes, param: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(msgspec.json.Decoder(Numbers), content)
    assert caught.value.param == param and said in caught.value.message
