from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core import frames, ipc
from shimmy.core.errors import Fault
from shimmy.core.events import Accepted, Alternative, Echoed, Failed, Finished, TextDelta, Timings, TokenLogprob, Usage
from shimmy.core.request import (
    MODEL_FIELDS,
    SAMPLER_ORDER,
    Chat,
    Generation,
    LoraScale,
    Message,
    Sampling,
    Text,
    Tokens,
)

text = st.text(max_size=40)
counts = st.integers(0, 2**31 - 1)
messages = st.builds(Message, role=text, content=text, name=st.none() | text)
prompts = (
    st.builds(Chat, messages=st.lists(messages, max_size=3))
    | st.builds(Text, text=text)
    | st.builds(Tokens, ids=st.lists(counts, max_size=5))
)
samplings = st.builds(
    Sampling,
    temperature=st.floats(0, 100),
    top_k=st.integers(-1, 2**31 - 1),
    samplers=st.lists(st.sampled_from(SAMPLER_ORDER), max_size=3).map(tuple),
    dry_sequence_breakers=st.lists(st.text(min_size=1, max_size=9), max_size=3).map(tuple),
    bad_words=st.lists(st.text(max_size=9), max_size=3),
    ignore_eos=st.booleans(),
    explicit=st.lists(st.sampled_from(MODEL_FIELDS), max_size=3).map(tuple),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    logit_bias=st.dictionaries(counts, st.floats(-100, 100), max_size=3),
)
generations = st.builds(
    Generation,
    id=text,
    model=text,
    prompt=prompts,
    sampling=samplings,
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    stop=st.lists(text, max_size=3),
    stop_tokens=st.lists(counts, max_size=3),
    logprobs=st.none() | st.integers(0, 20),
    echo=st.booleans(),
    echo_logprobs=st.booleans(),
    num_choices=st.integers(1, 128),
    priority=st.integers(-(2**31), 2**31 - 1),
    tenant=text,
    timeout_seconds=st.none() | st.floats(0.001, 86_400),
    queue_seconds=st.none() | st.floats(0.001, 86_400),
    lora=st.none() | st.lists(st.builds(LoraScale, id=st.none() | counts, scale=st.floats(-100, 100)), max_size=2),
)
options = st.builds(
    ipc.EngineOptions,
    adapters=st.lists(st.builds(ipc.Adapter, name=text, path=text, scale=st.floats(-100, 100)), max_size=2).map(tuple),
    settings=st.binary(max_size=40),
)
to_worker = (
    st.builds(ipc.Load, paths=st.lists(text, max_size=3), options=options)
    | st.builds(ipc.Generate, generation=generations)
    | st.builds(ipc.Abort, id=text)
    | st.builds(ipc.Pause, id=text)
    | st.builds(ipc.Resume, id=text)
    | st.builds(ipc.ListDevices, unusable=st.dictionaries(text, text, max_size=2))
    | st.builds(ipc.Quantize, source=text, target=text, partial=text, file_type=counts, num_threads=st.none() | counts)
)
seconds = st.floats(0, 1e6)
usages = st.builds(Usage, prompt_tokens=counts, completion_tokens=counts, cached_tokens=counts)
timings = st.builds(Timings, queue_seconds=seconds, prefill_seconds=seconds, decode_seconds=seconds)
faults = st.builds(
    Fault, code=text, message=text, param=st.none() | text, details=st.dictionaries(text, counts | text, max_size=3)
)
alternatives = st.builds(Alternative, bytes=st.binary(max_size=8), logprob=st.floats(-9999, 0))
tokens = st.builds(
    TokenLogprob,
    bytes=st.binary(max_size=8),
    logprob=st.none() | st.floats(-9999, 0),
    top=st.lists(alternatives, max_size=3),
)
events = (
    st.builds(Accepted, id=text, prompt_tokens=counts)
    | st.builds(Echoed, id=text, text=text, tokens=st.lists(tokens, max_size=3))
    | st.builds(TextDelta, id=text, index=counts, text=text, tokens=st.lists(tokens, max_size=3))
    | st.builds(
        Finished,
        id=text,
        index=counts,
        reason=st.sampled_from(["stop", "length"]),
        usage=usages,
        timings=timings,
        stop=st.none() | text,
    )
    | st.builds(Failed, id=text, fault=faults)
)
from_worker = (
    st.builds(ipc.LoadProgress, fraction=st.floats(0, 1))
    | st.builds(ipc.Opening, path=text)
    | st.builds(ipc.LoadFailed, fault=faults)
    | st.builds(ipc.Events, events=st.lists(events, max_size=4))
    | st.builds(ipc.QuantizeProgress, num_done=counts, num_tensors=counts)
    | st.builds(ipc.Quantized, num_tensors=counts, num_fallbacks=counts, target_bytes=st.integers(0, 2**63 - 1))
)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]


def read(kind: Any, pieces: list[bytes]) -> list[Any]:
    reader = ipc.FrameReader(kind)
    return [message for piece in pieces for message in reader.feed(piece)]


@given(st.lists(to_worker, max_size=4), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_split_of_the_stream_gives_the_same_messages_to_the_worker(sent: list[Any], cuts: list[int]) -> None:
    stream = b"".join(ipc.encode(message) for message in sent)
    assert read(ipc.ToWorker, split(stream, cuts)) == sent


@given(st.lists(from_worker, max_size=4), st.lists(st.integers(0, 10_000), max_size=8))
def test_any_split_of_the_stream_gives_the_same_messages_to_the_server(sent: list[Any], cuts: list[int]) -> None:
    stream = b"".join(ipc.encode(message) for message in sent)
    assert read(ipc.FromWorker, split(stream, cuts)) == sent


def test_one_byte_at_a_time() -> None:
    stream = ipc.encode(ipc.Abort("a")) + ipc.encode(ipc.Abort("b"))
    assert read(ipc.ToWorker, [bytes([byte]) for byte in stream]) == [ipc.Abort("a"), ipc.Abort("b")]


@given(st.binary(max_size=200))
def test_garbage_is_a_frame_error_or_not_yet_a_frame(body: bytes) -> None:
    """Nothing but FrameError comes out, and a complete frame is never silently kept."""
    frame = len(body).to_bytes(4, "little") + body
    try:
        assert len(read(ipc.ToWorker, [frame])) == 1
    except ipc.FrameError:
        pass


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc1",
        b"\x81\xa4type\xa5abort",
        msgspec.msgpack.encode({"type": "no_such_message"}),
        msgspec.msgpack.encode({"type": "abort", "id": 5}),
        msgspec.msgpack.encode({"type": "abort", "id": "a"}) + b"\x00",
        b"\x82\xa4type\xa5abort\xa2id\xa2\xff\xff",
        b"\x91" * 100_000,
    ],
    ids=["empty", "reserved byte", "cut", "unknown", "wrong type", "trailing byte", "bad utf-8", "nested"],
)
def test_an_undecodable_body_is_a_frame_error(body: bytes) -> None:
    with pytest.raises(ipc.FrameError):
        read(ipc.ToWorker, [len(body).to_bytes(4, "little") + body])


def test_messages_before_a_broken_frame_are_delivered() -> None:
    reader = ipc.FrameReader(ipc.ToWorker)
    messages = reader.feed(ipc.encode(ipc.Abort("a")) + b"\x01\x00\x00\x00\xc1")
    assert next(messages) == ipc.Abort("a")
    with pytest.raises(ipc.FrameError):
        next(messages)


def test_an_announced_size_over_the_limit_is_refused_before_its_body_arrives() -> None:
    with pytest.raises(ipc.FrameError, match="over the limit"):
        read(ipc.ToWorker, [(ipc.MAX_FRAME_BYTES + 1).to_bytes(4, "little")])


def test_a_frame_of_exactly_the_limit_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = ipc.encode(ipc.Abort("x" * 50))
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", len(frame) - 4)
    assert read(ipc.ToWorker, [frame]) == [ipc.Abort("x" * 50)]


def test_a_message_over_the_limit_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAME_BYTES", 32)
    with pytest.raises(ipc.FrameError, match="over the limit of 32"):
        ipc.encode(ipc.Abort("x" * 50))


def test_a_reader_only_takes_its_own_direction() -> None:
    with pytest.raises(ipc.FrameError):
        read(ipc.FromWorker, [ipc.encode(ipc.Abort("a"))])
