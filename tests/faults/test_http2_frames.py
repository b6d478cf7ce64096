"""HTTP/2 that keeps to the letter and means harm: what it costs is bounded, and others are answered meanwhile.

What breaks the letter is in tests/server/test_accept.py.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import h2.settings
import hpack
import pytest
from hyperframe.frame import ContinuationFrame, DataFrame, HeadersFrame, PingFrame, SettingsFrame

from tests.program import inside
from tests.server.http2 import Http2, http2
from tests.server.live import Client, Inside, Live, chat_body, run_inside, run_live, with_settings

pytestmark = [pytest.mark.slow, pytest.mark.program]

CHAT = "/v1/chat/completions"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize()
HEAD = [(":method", "GET"), (":path", "/health"), (":scheme", "http"), (":authority", "localhost")]
MOST_MB = 24


def resident_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 >> 20


@asynccontextmanager
async def spoken(server: Live) -> AsyncIterator[Client]:
    async with server.connect(receive_buffer=4096) as client:
        client.writer.transport.set_write_buffer_limits(0)
        await client.send(PREFACE)
        yield client


async def ended(client: Http2, stream: int) -> bytes:
    while stream not in client.ended | client.reset:
        await client.turn()
    return client.data[stream]


async def until_not_read(client: Client, flood: bytes) -> None:
    """The server has to stop reading before its answers, which nobody reads, fill the memory."""
    async with asyncio.timeout(90):
        while True:
            client.writer.write(flood)
            try:
                async with asyncio.timeout(0.5):
                    await client.writer.drain()
            except TimeoutError:
                return


FLOODS = {
    "pings": PingFrame(0, b"12345678").serialize() * 5000,
    "settings": SettingsFrame(0, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 65535}).serialize() * 5000,
}


@inside("its own memory")
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_whose_answers_nobody_reads_is_not_read_either(name: str) -> None:
    async def test(server: Inside) -> None:
        before = resident_mb()
        async with spoken(server) as client:
            await until_not_read(client, FLOODS[name])
            assert resident_mb() - before < MOST_MB
            assert (await server.chat("hello")).status == 200
            client.writer.transport.abort()
        await server.until_no_connections()

    run_inside(test, keep_alive_seconds=0.1)


# What is sent at once is kept until it is, in this very process.
_PIECE = 1 << 16


def bomb() -> bytes:
    """4 kB in the table, and then a byte for each time that it is meant again: 60 MB of fields in 16 kB."""
    block = hpack.Encoder().encode([*HEAD, ("x", "a" * 3900)])
    again = bytes([0x80 | 62])
    return HeadersFrame(1, block + again * 16_000, flags=["END_HEADERS", "END_STREAM"]).serialize()


def long_head() -> bytes:
    """16 MB of fields in one block that never ends."""
    block = hpack.Encoder().encode(HEAD)
    field = b"\x00\x01x\x7f\x81\x7b" + b"y" * 16_000
    return HeadersFrame(1, block).serialize() + ContinuationFrame(1, field).serialize() * 1000


@inside("its own memory")
@pytest.mark.parametrize("make", [bomb, long_head])
def test_a_head_that_grows_is_cut(make: object) -> None:
    assert callable(make)
    frames = PREFACE + make()

    async def test(server: Inside) -> None:
        before = resident_mb()
        async with server.connect() as client, asyncio.timeout(90):
            try:
                for at in range(0, len(frames), _PIECE):
                    await client.send(frames[at : at + _PIECE])
                while await client.reader.read(65536):
                    pass
            except ConnectionError:
                pass
        assert resident_mb() - before < MOST_MB
        await server.until_no_connections()
        assert (await server.chat("hello")).status == 200

    run_inside(test, keep_alive_seconds=0.1)


def test_a_client_does_not_say_how_much_of_all_heads_is_kept() -> None:
    """Each answer's id would stay in the table that the server compresses with, for as long as the connection lives."""

    async def test(server: Live) -> None:
        async with http2(server) as client:
            client.connection.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 1 << 30})
            for _ in range(2):
                assert b'"ok"' in await ended(client, await client.request("GET", "/health"))
            assert client.connection.decoder.header_table_size <= 4096

    run_live(test)


def test_a_body_in_many_empty_frames_is_read() -> None:
    body = json.dumps(chat_body("hello")).encode()

    async def test(server: Live) -> None:
        async with http2(server) as client:
            stream = await client.request("POST", CHAT, body[:5], end=False)
            client.writer.write(DataFrame(stream, b"").serialize() * 3000)
            client.connection.send_data(stream, body[5:], end_stream=True)
            await client.flush()
            assert b"hello" in await ended(client, stream)

    run_live(test)


def test_trailers_of_a_request_are_passed_over() -> None:
    body = json.dumps(chat_body("hello")).encode()

    async def test(server: Live) -> None:
        async with http2(server) as client:
            stream = await client.request("POST", CHAT, body, end=False)
            client.connection.send_headers(stream, [("x-checksum", "1")], end_stream=True)
            await client.flush()
            assert b"hello" in await ended(client, stream)

    run_live(test)


@inside("stall_seconds")
@pytest.mark.parametrize("streams", [True, False])
def test_a_window_that_was_never_open_ends_in_a_reset(streams: bool) -> None:
    """All of the streams that a connection may have at a time wait for it, and the next connection is answered."""

    async def test(server: Inside) -> None:
        async with http2(server) as client:
            client.connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
            opened = [await client.request("POST", CHAT, chat_body("hi", stream=streams)) for _ in range(100)]
            while len(client.reset) < len(opened):
                await client.turn()
            assert not any(client.data.values())
        assert (await server.chat("hello")).status == 200
        await server.until_active(0)
        await server.until_no_connections()

    run_inside(test, settings=with_settings(stall_seconds=0.5), keep_alive_seconds=0.1)


UPGRADE = b"%s HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\n"


@pytest.mark.parametrize(
    "line", [b"", b"http2-settings: AAMAAABk\r\n", b"http2-settings: ???\r\n", b"http2-settings: A\r\n"]
)
def test_an_upgrade_to_http2_harms_nobody(line: bytes) -> None:
    """Right or wrong: some servers hand on what follows as a request of their own."""

    async def test(server: Live) -> None:
        async with server.connect() as client, asyncio.timeout(90):
            await client.send(UPGRADE % b"GET /health" + line + b"\r\n")
            client.writer.write_eof()
            assert (await client.reader.read())[:9] in (b"HTTP/1.1 ", b"")
        async with server.connect() as client, asyncio.timeout(90):
            content = b"content-length: 44\r\n\r\nGET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
            await client.send(UPGRADE % b"POST /v1/completions" + line + content)
            client.writer.write_eof()
            assert b'"list"' not in await client.reader.read()
        assert (await server.chat("hello")).status == 200

    run_live(test)
