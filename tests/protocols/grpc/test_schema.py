"""Messages as bytes and back, compared with Google's own protobuf: what it writes, takes and refuses."""

import math
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RequestError
from shimmy.protocols.grpc import health, messages, reflection
from shimmy.protocols.grpc.schema import INT32, MAX_VALUES, Field, decode, encode, slots
from shimmy.protocols.grpc.wire import LENGTH, VARINT, record, varint

pytest.importorskip("google.protobuf", reason="compared with protobuf")
pytest.importorskip("grpc", reason="the official messages are made beside grpcio's client")

from google.protobuf.message import DecodeError

from tests.protocols.grpc import official

# Our Structs and the full names of their messages; together they have every kind of field.
PAIRS: list[tuple[type[msgspec.Struct], str]] = [
    (messages.ChatRequest, "spindll.ChatRequest"),
    (messages.GenerateParams, "spindll.GenerateParams"),
    (messages.GenerateResponse, "spindll.GenerateResponse"),
    (messages.ListResponse, "spindll.ListResponse"),
    (messages.LoadRequest, "spindll.LoadRequest"),
    (messages.UsageStats, "spindll.UsageStats"),
    (health.HealthListResponse, "grpc.health.v1.HealthListResponse"),
    (reflection.ExtensionNumberResponse, "grpc.reflection.v1.ExtensionNumberResponse"),
    (reflection.ServerReflectionResponse, "grpc.reflection.v1.ServerReflectionResponse"),
]

floats = st.floats(width=32, allow_nan=False)
int32 = st.integers(-(2**31), 2**31 - 1)
uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
some = st.none
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def lists(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(of, max_size=5)


params = st.builds(
    messages.GenerateParams,
    temperature=some() | floats,
    top_p=some() | floats,
    top_k=some() | int32,
    max_tokens=some() | int32,
    stop=lists(text),
    seed=some() | uint64,
)
chats = st.builds(
    messages.ChatRequest,
    model=text,
    messages=lists(st.builds(messages.Message, text, text)),
    params=some() | params,
    encryption_key=st.binary(max_size=40),
)
usages = st.builds(messages.UsageStats, int32, int32, floats, int32)
responses = st.builds(messages.GenerateResponse, text, st.booleans(), some() | usages, text)
infos = st.builds(messages.ModelInfo, name=text, file=text, size_bytes=uint64, context_length=uint32)
statuses = st.builds(health.HealthCheckResponse, st.integers(0, 3))
extensions = st.builds(reflection.ExtensionRequest, text, int32)
questions = st.one_of(
    st.builds(reflection.ServerReflectionRequest, host=text),
    st.builds(reflection.ServerReflectionRequest, host=text, file_by_filename=text),
    st.builds(reflection.ServerReflectionRequest, file_containing_extension=extensions),
    st.builds(reflection.ServerReflectionRequest, list_services=text),
)
answers = st.one_of(
    st.builds(reflection.ServerReflectionResponse, text, some() | questions),
    st.builds(
        reflection.ServerReflectionResponse,
        original_request=questions,
        file_descriptor_response=st.builds(reflection.FileDescriptorResponse, lists(st.binary(max_size=9))),
    ),
    st.builds(
        reflection.ServerReflectionResponse,
        list_services_response=st.builds(
            reflection.ListServiceResponse, lists(st.builds(reflection.ServiceResponse, text))
        ),
    ),
)
ALL = st.one_of(
    chats,
    params,
    responses,
    usages,
    answers,
    st.builds(messages.ListResponse, lists(infos), text),
    st.builds(messages.LoadRequest, text, int32, int32, uint32),
    st.builds(health.HealthListResponse, st.dictionaries(text, statuses, max_size=4)),
    st.builds(reflection.ExtensionNumberResponse, text, lists(int32)),
)


def official_of(ours: msgspec.Struct) -> Any:
    """An empty official message of the same kind."""
    return official.message(dict(PAIRS)[type(ours)])


def same(ours: Any, theirs: Any) -> bool:
    """Whether both have the same in every field that ours has."""
    for slot in slots(ours.__class__).values():
        mine, other = getattr(ours, slot.name), getattr(theirs, slot.name)
        if mine is None:
            equal = not theirs.HasField(slot.name)
        elif isinstance(mine, dict):
            equal = mine.keys() == other.keys() and all(same(value, other[key]) for key, value in mine.items())
        elif isinstance(mine, list):
            equal = len(mine) == len(other) and all(map(same_value, mine, other))
        else:
            equal = (slot.default is not None or theirs.HasField(slot.name)) and same_value(mine, other)
        if not equal:
            return False
    return True


def same_value(mine: Any, other: Any) -> bool:
    if isinstance(mine, msgspec.Struct):
        return same(mine, other)
    if isinstance(mine, float):
        return (
            math.isnan(mine) and math.isnan(other) or (mine, math.copysign(1, mine)) == (other, math.copysign(1, other))
        )
    return bool(mine == other)


@given(ALL)
def test_the_official_one_reads_what_is_written(ours: msgspec.Struct) -> None:
    theirs = official_of(ours)
    theirs.ParseFromString(encode(ours))
    assert same(ours, theirs)
    assert len(encode(ours)) == theirs.ByteSize()


@given(ALL)
def test_what_the_official_one_writes_is_read(ours: msgspec.Struct) -> None:
    theirs = official_of(ours)
    theirs.ParseFromString(encode(ours))
    assert decode(type(ours), theirs.SerializeToString()) == ours


def agree(cls: type[msgspec.Struct], name: str, data: bytes) -> None:
    """Both refuse, or both read the same."""
    theirs = official.message(name)
    try:
        theirs.ParseFromString(data)
    except DecodeError:
        with pytest.raises(RequestError):
            decode(cls, data)
    else:
        assert same(decode(cls, data), theirs)


@given(st.sampled_from(PAIRS), st.binary(max_size=40))
def test_any_bytes_are_read_alike(pair: tuple[type[msgspec.Struct], str], data: bytes) -> None:
    agree(*pair, data)


@given(ALL, st.data())
def test_damaged_messages_are_read_alike(ours: msgspec.Struct, data: st.DataObject) -> None:
    damaged = bytearray(encode(ours))
    for _ in range(data.draw(st.integers(1, 3))):
        if damaged:
            at = data.draw(st.integers(0, len(damaged) - 1))
            damaged[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    agree(type(ours), dict(PAIRS)[type(ours)], bytes(damaged))


tags = st.builds(lambda number, wire_type: varint(number << 3 | wire_type), st.integers(1, 9), st.integers(0, 5))
numbers = st.builds(varint, st.integers(0, 3) | uint64)


@given(st.sampled_from(PAIRS), st.lists(tags | numbers | st.binary(max_size=3), max_size=12))
def test_any_records_are_read_alike(pair: tuple[type[msgspec.Struct], str], pieces: list[bytes]) -> None:
    agree(*pair, b"".join(pieces))


@given(chats, chats)
def test_two_messages_in_a_row_are_one(one: messages.ChatRequest, other: messages.ChatRequest) -> None:
    agree(messages.ChatRequest, "spindll.ChatRequest", encode(one) + encode(other))


def test_each_part_of_a_message_is_whole() -> None:
    """The number that the first one ends in would go on in the second one."""
    agree(messages.ChatRequest, "spindll.ChatRequest", record(3, LENGTH, b"\xb2") + record(3, LENGTH, b"\x06\x00"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (record(2, LENGTH, record(2, LENGTH, b"\xff")), "messages[0].content: not valid UTF-8: invalid start byte"),
        (record(3, LENGTH, record(5, LENGTH, b"\xc3")), "params.stop: not valid UTF-8: unexpected end of data"),
        (b"\x0a\x05abc", "it ends in the middle of a field"),
        (b"\x0a", "it ends in the middle of a number"),
        (b"\x08" + b"\xff" * 10, "a number is too long"),
        (b"\x00\x00", "a field has no valid number"),
        (b"\x0e", "there is no wire type 6"),
        (b"\x0c", "a group ends that has not begun"),
        (b"\x4b\x54", "a group ends that has not begun"),
        (b"\x4b" * 101, "it is nested too deeply"),
    ],
)
def test_what_is_wrong_is_told(data: bytes, told: str) -> None:
    with pytest.raises(RequestError) as caught:
        decode(messages.ChatRequest, data)
    assert caught.value.message == told
    assert caught.value.param == (told.partition(":")[0] if ":" in told else None)


class Nested(msgspec.Struct, frozen=True):
    inner: Any = None


# It names itself, so that it has to be there first.
Nested.__annotations__["inner"] = Annotated[Any, Field(1, Nested)]


def test_depth_is_limited() -> None:
    data = b""
    for _ in range(100):
        data = record(1, LENGTH, data)
    decode(Nested, data)
    with pytest.raises(RequestError, match="nested too deeply"):
        decode(Nested, record(1, LENGTH, data))


def test_the_number_of_values_is_limited() -> None:
    """Two bytes are a message of many times that size."""
    assert f"{MAX_VALUES:,} values" in (Path(__file__).parents[3] / "docs" / "grpc.md").read_text()
    empty = record(2, LENGTH, b"")
    assert len(decode(messages.ChatRequest, empty * MAX_VALUES).messages) == MAX_VALUES
    unknown = record(99, VARINT, 1) * (MAX_VALUES + 1)
    for data in (empty * (MAX_VALUES + 1), unknown, b"\x4b" + unknown + b"\x4c"):
        with pytest.raises(RequestError, match="more than 16384 values"):
            decode(messages.ChatRequest, data)
    packed = record(2, LENGTH, b"\1" * (MAX_VALUES + 1))
    with pytest.raises(RequestError, match="more than 16384 values"):
        decode(reflection.ExtensionNumberResponse, packed)


def test_numbers_may_come_packed_or_not() -> None:
    data = record(2, VARINT, 7) + record(2, LENGTH, varint(8) + varint(-9)) + record(2, VARINT, -1)
    assert decode(reflection.ExtensionNumberResponse, data).extension_number == [7, 8, -9, -1]
    assert INT32.decode(2**32 + 5) == 5
