"""Connections that are too many, too slow, or speak frames that Hypercorn has no answer to."""

import asyncio
import struct
import time
from collections.abc import Sequence

import h2.connection
import hpack
import pytest

from shimmy.server.accept import _address
from tests.program import inside
from tests.server.client import Answer
from tests.server.live import Inside, Live, run_inside, run_live, with_settings

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4
REQUEST = [(":method", "GET"), (":path", "/health"), (":scheme", "http"), (":authority", "localhost")]
POST = [(":method", "POST"), (":path", "/v1/completions"), *REQUEST[2:]]
QUIET_SECONDS = 0.3


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def request(stream: int, headers: Sequence[tuple[str, str | bytes]], flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(HEADERS, flags, stream, hpack.Encoder().encode(headers))


# What a client that keeps to RFC 9113 never sends, and floods of what it does.
STRANGE_FRAMES = {
    "CONNECT without a path": request(1, [(":method", "CONNECT"), (":authority", "localhost")]),
    "bytes in the path": request(1, [REQUEST[0], (":path", b"/\xff"), *REQUEST[2:]]),
    "bytes in the method": request(1, [(":method", b"G\xffT"), *REQUEST[1:]]),
    "no path": request(1, [REQUEST[0], *REQUEST[2:]]),
    "an empty path": request(1, [REQUEST[0], (":path", ""), *REQUEST[2:]]),
    "a name in upper case": request(1, [*REQUEST, ("X-Y", "z")]),
    "HTTP/1's framing": request(1, [*REQUEST, ("transfer-encoding", "chunked")]),
    "HTTP/1's connection": request(1, [*REQUEST, ("connection", "close")]),
    "two lengths": request(1, [*POST, ("content-length", "5"), ("content-length", "6")], END_HEADERS)
    + frame(DATA, END_STREAM, 1, b"short"),
    "more than the length": request(1, [*POST, ("content-length", "5")], END_HEADERS)
    + frame(DATA, END_STREAM, 1, b"too long"),
    "headers without end": frame(HEADERS, END_STREAM, 1, hpack.Encoder().encode(REQUEST))
    + b"".join(frame(CONTINUATION, 0, 1, b"\x00\x01x\x7f\x81\x7b" + b"y" * 16000) for _ in range(30)),
    "empty continuations": frame(HEADERS, END_STREAM, 1) + frame(CONTINUATION, 0, 1) * 5000,
    "data for no stream": frame(DATA, END_STREAM, 1, b"x"),
    "data after the end": request(1, REQUEST) + frame(DATA, END_STREAM, 1, b"x"),
    "a window of nothing": frame(WINDOW, 0, 0, bytes(4)),
    "a window of too much": frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"),
    "depending on itself": frame(PRIORITY, 0, 1, b"\0\0\0\1\x10"),
    "depending on each other": frame(PRIORITY, 0, 1, b"\0\0\0\3\x10") + frame(PRIORITY, 0, 3, b"\0\0\0\1\x10"),
    "priorities of many streams": b"".join(frame(PRIORITY, 0, 2 * i + 1, b"\0\0\0\0\x10") for i in range(3000)),
    "many settings": frame(SETTINGS, 0, 0) * 2000,
    "many pings": frame(PING, 0, 0, b"12345678") * 2000,
    "a push": frame(PUSH, END_HEADERS, 1, b"\0\0\0\2" + hpack.Encoder().encode(REQUEST)),
    "the server's stream": request(2, REQUEST),
    "too many streams": b"".join(request(2 * i + 1, POST, END_HEADERS) for i in range(150)),
    "a reset of nothing": frame(RESET, 0, 1, bytes(4)),
    "a farewell": frame(GOAWAY, 0, 0, bytes(8)),
}


@inside("connections")
@pytest.mark.program
@pytest.mark.parametrize("name", STRANGE_FRAMES)
def test_strange_frames_end_nothing_but_their_connection(name: str, caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: Inside) -> None:
        async with server.connect() as client:
            client.writer.write(PREFACE + STRANGE_FRAMES[name])
            client.writer.write_eof()
            try:
                await client.reader.read()
            except ConnectionError:
                pass
        assert (await server.ask("GET", "/health")).status == 200
        await server.until_no_connections()

    run_inside(test)
    assert "Traceback" not in caplog.text


SLOW = {
    "silence": b"",
    "half a line": b"GET / HT",
    "half a head": b"GET / HTTP/1.1\r\nhost: localhost\r\n",
    "half a second request": b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET /hea",
    "HTTP/2 and nothing": PREFACE,
    "HTTP/2 and half a head": PREFACE + frame(HEADERS, 0, 1, b"\x82"),
    "HTTP/2 and half a frame": PREFACE + frame(HEADERS, 0, 1, b"\x82" * 500)[:9],
}


@inside("keep_alive_seconds")
@pytest.mark.program
@pytest.mark.parametrize("drip", [b"", b"drip"], ids=["silent", "dripping"])
@pytest.mark.parametrize("name", SLOW)
def test_who_takes_too_long_to_ask_is_left(name: str, drip: bytes) -> None:
    """Whether a byte comes now and then makes no difference."""
    if drip:
        drip = {"HTTP/2 and nothing": frame(PING, 0, 0, b"12345678"), "silence": b"G"}.get(name, b"x")

    async def test(server: Inside) -> None:
        # The server's time runs from when it accepts the connection.
        began = time.monotonic()
        async with server.connect() as client:
            await client.send(SLOW[name])

            async def trickle() -> None:
                while drip:
                    await asyncio.sleep(QUIET_SECONDS / 10)
                    client.writer.write(drip)

            dripping = asyncio.create_task(trickle())
            try:
                await client.reader.read()
            except ConnectionError:
                pass
            dripping.cancel()
            assert time.monotonic() - began >= QUIET_SECONDS * 0.9
        await server.until_no_connections()

    run_inside(test, keep_alive_seconds=QUIET_SECONDS)


@inside("connections")
@pytest.mark.program
def test_a_client_that_has_left_is_not_kept_in_mind() -> None:
    async def test(server: Inside) -> None:
        for first in (b"", b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", PREFACE + request(1, REQUEST)):
            async with server.connect() as client:
                await client.send(first)
                if first:
                    await client.reader.read(1000)
            await server.until_no_connections()

    run_inside(test, keep_alive_seconds=60)


@pytest.mark.program
def test_a_refusal_does_not_cost_the_other_streams_of_a_connection() -> None:
    """The rest of a body that nobody wanted arrives after the answer."""

    async def test(server: Live) -> None:
        async with server.connect() as client:
            connection = h2.connection.H2Connection()
            connection.initiate_connection()
            connection.send_headers(1, POST)
            connection.send_data(1, b"x" * 100)
            await client.send(connection.data_to_send())
            ended = b""
            while frame(RESET, 0, 1, bytes(4)) not in ended:
                ended += await client.reader.read(65536)
            assert b"invalid_api_key" in ended
            await client.send(frame(DATA, 0, 1, b"late") + request(3, REQUEST))
            answer = b""
            while b'"status":"ok"' not in answer:
                answer += await client.reader.read(65536)
                assert answer

    run_live(test, settings=with_settings(api_keys=("sesame",)))


@inside("max_connections")
@pytest.mark.program
def test_one_connection_too_many_is_told_so() -> None:
    async def test(server: Inside) -> None:
        async with server.connect() as first, server.connect() as second:
            for client in (first, second):
                await client.request("GET", "/health")
                assert (await client.answer()).status == 200
            async with server.connect() as third:
                answer: Answer = await third.answer()
                told = answer.json()
                # What OpenAI's clients look for, and Anthropic's.
                assert (answer.status, told["error"]["code"], told["error"]["param"]) == (503, "unavailable", None)
                assert (told["type"], told["error"]["type"]) == ("error", "overloaded_error")
                assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("1", "true")
                assert await third.reader.read() == b""
            await first.request("GET", "/health")
            assert (await first.answer()).status == 200
        await server.until_no_connections()
        assert (await server.ask("GET", "/health")).status == 200

    run_inside(test, settings=with_settings(max_connections=2))


@inside("addresses")
@pytest.mark.program
def test_one_address_leaves_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "192.0.2.1"
    monkeypatch.setattr("shimmy.server.accept._address", lambda writer: address)

    async def test(server: Inside) -> None:
        nonlocal address
        async with server.connect() as first:
            await first.request("GET", "/health")
            await first.answer()
            async with server.connect() as second:
                assert (await second.answer()).status == 503
            address = "192.0.2.2"
            assert (await server.ask("GET", "/health")).status == 200
            address = ""
            async with server.connect() as local:
                await local.request("GET", "/health")
                assert (await local.answer()).status == 200
                assert (await server.ask("GET", "/health")).status == 200
        await server.until_no_connections()
        assert not server.connections._num_from

    run_inside(test, settings=with_settings(max_connections_per_address=1))


@pytest.mark.parametrize(
    ("peer", "counted"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        (("2001:db8:1:2:3:4:5:6", 5, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        (("127.0.0.9", 5), ""),
        (("::1", 5, 0, 0), ""),
        (("::ffff:127.0.0.1", 5, 0, 0), ""),
        ("", ""),
        (None, ""),
    ],
)
def test_whom_a_connection_counts_for(peer: object, counted: str) -> None:
    class Writer:
        def get_extra_info(self, name: str) -> object:
            return peer

    assert _address(Writer()) == counted  # type: ignore[arg-type]
