"""Bodies of many small values are refused before they are decoded; texts are not mistaken for such."""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.decoding import decode
from shimmy.core.errors import RequestError, TooLarge
from shimmy.core.json_limits import MAX_CONTAINERS, MAX_VALUES, SURE_DEPTH, check_structure, outside_strings
from shimmy.core.request import MAX_MESSAGES, MAX_PARTS
from shimmy.protocols.anthropic.wire import MessagesRequest
from shimmy.protocols.native.generate import GenerateRequest as NativeRequest
from shimmy.protocols.ollama.wire import ChatRequest as OllamaChat
from shimmy.protocols.openai.responses.wire import ResponsesRequest
from shimmy.protocols.openai.wire import ChatRequest

decoder = msgspec.json.Decoder(ChatRequest)
values = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('ab"\\,[]{}:\n\u00e9')),
    lambda each: st.lists(each) | st.dictionaries(st.text(st.sampled_from('x"\\[,')), each),
)


@given(values, st.integers(1, 9))
def test_only_what_is_outside_of_strings_counts(value: Any, piece_bytes: int) -> None:
    def containers(value: Any) -> int:
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return isinstance(value, dict | list) + sum(map(containers, inside))

    for content in (json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("shimmy.core.json_limits._PIECE_BYTES", piece_bytes)
            outside = b"".join(outside_strings(content))
        assert outside.count(b"{") + outside.count(b"[") == containers(value)


@pytest.mark.parametrize(
    ("content", "limit"),
    [
        (b"[" + b"[]," * MAX_CONTAINERS + b"0]", f"{MAX_CONTAINERS} objects and arrays"),
        (b"[" + b"{}," * MAX_CONTAINERS + b"0]", f"{MAX_CONTAINERS} objects and arrays"),
        (b"[" + b"0," * (MAX_VALUES + 1) + b"0]", f"{MAX_VALUES} values"),
    ],
)
def test_too_much_structure_is_refused_by_its_limit(content: bytes, limit: str) -> None:
    with pytest.raises(TooLarge, match=limit):
        check_structure(content)


def test_as_much_as_is_allowed_passes() -> None:
    check_structure(b"[" + b"[]," * (MAX_CONTAINERS - 1) + b"0]")
    check_structure(b"[" + b"0," * MAX_VALUES + b"0]")
    check_structure(json.dumps(['{[,\\"' * 5 * MAX_CONTAINERS]).encode())


def test_whatever_a_body_has_it_does_not_stop_the_server_for_long() -> None:
    """16 MiB of empty arrays took seconds, and take a tenth of one."""
    body, taken = b'{"tools":[' + b"[]," * (5 << 20) + b"0]}", []
    for _ in range(3):
        began = time.thread_time()
        with pytest.raises(TooLarge):
            decode(decoder, body)
        taken.append(time.thread_time() - began)
    assert min(taken) < 1.0


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields).encode()


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        (MessagesRequest, "messages"),
        (ResponsesRequest, "input"),
        (OllamaChat, "messages"),
        (NativeRequest, "messages"),
    ],
)
def test_every_protocol_limits_its_messages(kind: type[msgspec.Struct], field: str) -> None:
    message = {"role": "user", "content": "x"}
    for count, is_refused in ((MAX_MESSAGES, False), (MAX_MESSAGES + 1, True)):
        content = json.dumps({"model": "m", "max_tokens": 1, field: [message] * count}).encode()
        if is_refused:
            with pytest.raises(RequestError, match=f"^{field}: .*<= {MAX_MESSAGES}"):
                decode(msgspec.json.Decoder(kind), content)
        else:
            decode(msgspec.json.Decoder(kind), content)


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"messages": [{"role": "user"}] * (MAX_MESSAGES + 1)}, "messages: .*<= 10000"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}] * (MAX_PARTS + 1)}]},
            r"messages\[0\]\.content: .*<= 10000",
        ),
    ],
)
def test_counts_are_refused_by_field_and_limit(fields: dict[str, Any], limit: str) -> None:
    with pytest.raises(RequestError, match=limit):
        decode(decoder, body(**fields))


@pytest.mark.parametrize("field", ["unknown", "modalities"])
def test_depth(field: str) -> None:
    """The limit is the decoder's own; that it ends in an error, however deep, tests/faults/test_malformed.py shows."""
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        nested = '{"model":"m","messages":[{"role":"user"}],"%s":%s0%s}'
        decode(decoder, (nested % (field, opening * SURE_DEPTH, closing * SURE_DEPTH)).encode())
        with pytest.raises(RequestError, match=f"{SURE_DEPTH} levels"):
            decode(decoder, (nested % (field, opening * 50_000, closing * 50_000)).encode())
