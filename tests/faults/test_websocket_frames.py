"""WebSocket frames that no library sends, in the manner of the Autobahn suite: each ends its connection at most."""

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.program import inside
from tests.server.http2 import Http2, http2
from tests.server.live import Client, Inside, Live, run_inside, run_live, with_settings

pytestmark = [pytest.mark.slow, pytest.mark.program]

REST, TEXT, BYTES, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
TOO_BIG = struct.pack(">H", 1009)
# Within it a worker has to be paused, and all that there is a window for has to come.
STALL_SECONDS = 2.0
HANDSHAKE = (
    b"GET /ws/generate HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def ask(prompt: str) -> bytes:
    return json.dumps({"model": "echo", "prompt": prompt, "max_tokens": 99_999}).encode()


ASK = ask("!say one")
DONE = b'\x81\x03one\x81\x0d{"done":true}'


def frame(
    kind: int, payload: bytes = b"", *, last: bool = True, mask: bool = True, extra: int = 0, length: int | None = None
) -> bytes:
    """A client's frame; its mask changes nothing. `extra` are the reserved bits, `length` what it claims to have."""
    size = len(payload) if length is None else length
    form, packed = (size, b"") if size < 126 else (126, struct.pack(">H", size)) if size < 1 << 16 else (127, b"")
    if form == 127:
        packed = struct.pack(">Q", size)
    return bytes([last << 7 | extra << 4 | kind, mask << 7 | form]) + packed + bytes(4 * mask) + payload


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack(">H", code) + reason)


# What RFC 6455 says a connection must not survive.
WRONG = {
    "no mask": frame(TEXT, ASK, mask=False),
    "a reserved bit": frame(TEXT, ASK, extra=4),
    "an unknown kind": frame(3, ASK),
    "an unknown control frame": frame(11),
    "the rest of nothing": frame(REST, ASK),
    "a message within another": frame(TEXT, b"{", last=False) + frame(TEXT, ASK),
    "a long ping": frame(PING, b"x" * 126),
    "a ping in parts": frame(PING, b"x", last=False),
    "bytes that are no text": frame(TEXT, b"\xff\xfe"),
    "a character cut off": frame(TEXT, b"\xe2\x82"),
    "half a character, and another": frame(TEXT, b"\xe2", last=False) + frame(REST, b"\x28"),
    "half a code": frame(CLOSE, b"\x03"),
    "a code that nobody may send": closing(1005),
    "a code that is none": closing(999),
    "a reason that is no text": closing(1000, b"\xff"),
    "a length beyond 2^63": frame(TEXT, b"x", length=1 << 63),
    "a short length in a long form": b"\x81\xfe\x00\x01" + bytes(4) + b"x",
}
FRAGMENTS = [frame(REST, bytes([byte]), last=False) for byte in ASK[1:]] + [frame(REST)]
RIGHT = {
    "in parts of a byte": frame(TEXT, ASK[:1], last=False) + b"".join(FRAGMENTS),
    "with parts that are empty": frame(TEXT, last=False) + frame(REST, last=False) * 1000 + frame(REST, ASK),
    "as bytes": frame(BYTES, ASK),
    "after an answer to no ping": frame(PONG, b"x") + frame(TEXT, ASK),
}
PARTED = [
    (closing(1000), closing(1000)),
    (frame(CLOSE), frame(CLOSE)),
    (closing(3000, b"bye"), closing(3000, b"bye")),
    (closing(1000) + frame(TEXT, ASK), closing(1000)),
]


@asynccontextmanager
async def upgraded(server: Live, receive_buffer: int | None = None) -> AsyncIterator[Client]:
    """A connection on which frames are spoken."""
    async with server.connect(receive_buffer) as client:
        await client.send(HANDSHAKE + b"\r\n")
        assert (await client.head()).status == 101
        yield client


async def rest_of(client: Client) -> bytes:
    try:
        return await client.reader.read()
    except ConnectionError:
        return b""


async def still_answers(server: Live) -> None:
    async with upgraded(server) as client:
        await client.send(frame(TEXT, ASK))
        assert await client.reader.readexactly(len(DONE)) == DONE
    assert (await server.chat("hello")).status == 200


def test_wrong_frames_end_the_connection_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: Live) -> None:
        for name, data in WRONG.items():
            async with upgraded(server) as client:
                await client.send(data)
                assert b"one" not in await rest_of(client), name
        await still_answers(server)

    run_live(test)
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("name", RIGHT)
def test_strange_but_right_frames_are_answered(name: str) -> None:
    async def test(server: Live) -> None:
        async with upgraded(server) as client:
            await client.send(RIGHT[name])
            assert await client.reader.readexactly(len(DONE)) == DONE

    run_live(test)


def test_a_ping_within_a_message_is_answered_first() -> None:
    async def test(server: Live) -> None:
        async with upgraded(server) as client:
            await client.send(frame(TEXT, ASK[:5], last=False) + frame(PING, b"hi"))
            assert await client.reader.readexactly(4) == b"\x8a\x02hi"
            await client.send(frame(REST, ASK[5:]))
            assert await client.reader.readexactly(len(DONE)) == DONE

    run_live(test)


def test_a_farewell_is_returned() -> None:
    async def test(server: Live) -> None:
        for said, expected in PARTED:
            async with upgraded(server) as client:
                await client.send(said)
                # A server masks nothing.
                assert await rest_of(client) == expected[:1] + bytes([expected[1] & 0x7F]) + expected[6:]

    run_live(test)


def test_handshakes_that_are_none_open_nothing() -> None:
    lines = [
        b"sec-websocket-version: 13\r\nsec-websocket-extensions: \xff\xfe;;=\r\n",
        b"sec-websocket-version: 13\r\nsec-websocket-protocol: \xff\r\n",
        b"sec-websocket-version: 13\r\ncontent-length: 5\r\n",
        b"sec-websocket-version: thirteen\r\n",
    ]

    async def test(server: Live) -> None:
        for line in lines:
            async with server.connect() as client:
                await client.send(HANDSHAKE.replace(b"sec-websocket-version: 13\r\n", line) + b"\r\n")
                client.writer.write_eof()
                assert b"101" not in (await rest_of(client))[:12], line
        await still_answers(server)

    run_live(test)


@inside("max_body_bytes")
@pytest.mark.parametrize("form", ["a frame", "parts"])
def test_a_message_without_end_is_cut_and_takes_no_memory(form: str) -> None:
    """The server says that it is too big, and then reads no more of it."""
    piece, most = b"x" * (64 << 10), 64 << 20

    async def test(server: Inside) -> None:
        async with upgraded(server) as client:
            num_sent = 0
            await client.send(frame(TEXT, last=form == "a frame", length=0 if form == "parts" else 1 << 40))
            try:
                while num_sent < most:
                    await client.send(piece if form == "a frame" else frame(REST, piece, last=False))
                    num_sent += len(piece)
            except ConnectionError:
                pass
            assert num_sent < most
        await server.until_no_connections()
        await still_answers(server)

    run_inside(test, settings=with_settings(max_body_bytes=100_000), keep_alive_seconds=0.1)


@inside("max_body_bytes")
def test_one_message_too_big_is_told_its_code() -> None:
    async def test(server: Live) -> None:
        async with upgraded(server) as client:
            await client.send(frame(TEXT, b"x" * 2000))
            assert await rest_of(client) == b"\x88\x02" + TOO_BIG

    run_live(test, settings=with_settings(max_body_bytes=1000))


@pytest.mark.parametrize("flood", [frame(PING, b"x" * 100), frame(TEXT, b"{}")], ids=["pings", "requests"])
def test_a_flood_whose_answers_nobody_reads_is_not_read_either(flood: bytes) -> None:
    async def test(server: Live) -> None:
        async with upgraded(server, receive_buffer=4096) as client:
            client.writer.transport.set_write_buffer_limits(0)
            await client.send(frame(TEXT, ask("!stall 1")))
            with pytest.raises(TimeoutError):
                # Else the test's own limit ends it.
                while True:
                    client.writer.write(flood * 10_000)
                    async with asyncio.timeout(0.5):
                        await client.writer.drain()
            await still_answers(server)
            client.writer.transport.abort()

    run_live(test)


# Over HTTP/2 (RFC 8441)


async def extended(client: Http2) -> int:
    """A stream on which frames are spoken."""
    while not client.connection.remote_settings.enable_connect_protocol:
        await client.turn()
    method, *headers = (":protocol", "websocket"), (":path", "/ws/generate"), (":scheme", "http")
    stream: int = client.connection.get_next_available_stream_id()
    more = [(":authority", "localhost"), ("sec-websocket-version", "13")]
    client.connection.send_headers(stream, [(":method", "CONNECT"), method, *headers, *more])
    client.data[stream], client.fields[stream] = b"", {}
    await client.flush()
    while not client.fields[stream]:
        await client.turn()
    assert client.fields[stream][":status"] == "200"
    return stream


async def speak(client: Http2, stream: int, data: bytes) -> None:
    client.connection.send_data(stream, data)
    await client.flush()


def test_over_http2_it_is_the_same() -> None:
    async def test(server: Live) -> None:
        async with http2(server) as client:
            stream = await extended(client)
            await speak(client, stream, frame(TEXT, ASK))
            while client.data[stream] != DONE:
                await client.turn()

    run_live(test)


@inside("stall_seconds")
def test_over_http2_a_client_that_takes_nothing_pauses_its_sequence_and_is_cut() -> None:
    async def test(server: Live) -> None:
        async with http2(server, open_windows=False) as client:
            stream = await extended(client)
            await speak(client, stream, frame(TEXT, ask("!flood 99999")))
            while stream not in client.reset:
                await client.turn()
            assert len(client.data[stream]) == 65535
        await server.until_logged("pause shimmy-.* abort shimmy-")
        await server.until_no_connections()

    run_live(test, settings=with_settings(stall_seconds=STALL_SECONDS), keep_alive_seconds=0.1)
