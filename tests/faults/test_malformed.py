"""Requests that are wrong in every way: each gets a 4xx, none a 5xx, and the server answers the next one."""

import asyncio
import json
from typing import Any

import pytest

from tests.server.live import Answer, Live, chat_body, run_live

pytestmark = [pytest.mark.slow, pytest.mark.program]

CHAT = "/v1/chat/completions"
DEEP = 50_000

# In the manner of JSONTestSuite's n_*.json: a parser has to refuse them.
NO_JSON = {
    "n_structure_no_data": b"",
    "n_structure_whitespace": b" \n\t",
    "n_structure_null_byte": b"\x00",
    "n_structure_bom_only": b"\xef\xbb\xbf",
    "n_structure_bom": b'\xef\xbb\xbf{"model":"echo"}',
    "n_structure_unclosed_object": b'{"model":"echo"',
    "n_structure_trailing_garbage": b"{}#",
    "n_structure_double_object": b"{}{}",
    "n_structure_single_quotes": b"{'model':'echo'}",
    "n_structure_comment": b'{"model":"echo"/* no */}',
    "n_structure_open_arrays": b"[" * DEEP,
    "n_structure_open_objects": b'{"a":' * DEEP,
    "n_object_trailing_comma": b'{"model":"echo",}',
    "n_object_unquoted_key": b'{model:"echo"}',
    "n_object_missing_colon": b'{"model" "echo"}',
    "n_object_key_is_number": b"{1:1}",
    "n_array_extra_comma": b'{"a":[1,,2]}',
    "n_number_nan": b'{"temperature":NaN}',
    "n_number_infinity": b'{"temperature":-Infinity}',
    "n_number_leading_zero": b'{"temperature":012}',
    "n_number_hex": b'{"temperature":0x1}',
    "n_number_dot": b'{"temperature":1.}',
    "n_number_plus": b'{"temperature":+1}',
    "n_string_unescaped_newline": b'{"model":"a\nb"}',
    "n_string_bad_escape": b'{"model":"\\x41"}',
    "n_string_lone_surrogate": b'{"model":"\\ud800"}',
    "n_string_half_surrogate_escape": b'{"model":"\\ud800\\u"}',
    "n_string_invalid_utf8": b'{"model":"\xff"}',
    "n_string_overlong_utf8": b'{"model":"\xc0\xaf"}',
    "n_string_beyond_unicode": b'{"model":"\xf4\x90\x80\x80"}',
    "n_string_truncated_utf8": b'{"model":"\xe2\x82',
    "n_utf16": '{"model":"echo"}'.encode("utf-16"),
    "n_literal_capital": b'{"stream":True}',
    "n_form": b"model=echo&stream=true",
}

MALFORMED_HTTP = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300 + b"\r\n\r\n",
    "no version": b"GET /health\r\n\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n\r\n",
    "space in the target": b"GET /hea lth HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "bytes in the target": b"GET /\xff HTTP/1.1\r\nhost: localhost\r\n\r\n",
    "space before the colon": b"GET /health HTTP/1.1\r\nhost : localhost\r\n\r\n",
    "space after a header's name": b"GET /health HTTP/1.1\r\nhost: localhost\r\nx\t: y\r\n\r\n",
    "null in a header": b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: a\x00b\r\n\r\n",
    "a huge header": b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 100_000 + b"\r\n\r\n",
    "many headers": b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x: y\r\n" * 100_000 + b"\r\n",
    "negative length": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
    "length that is no number": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: ten\r\n\r\n",
    "two lengths": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
    b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "length and chunks": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3\r\n"
    b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown transfer encoding": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
    "chunked twice": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked, chunked\r\n\r\n",
    "chunk size that is no number": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
    b"transfer-encoding: chunked\r\n\r\nxyz\r\nabc\r\n",
    "compressed": b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-encoding: gzip\r\n"
    b"content-length: 2\r\n\r\n\x1f\x8b",
}


async def still_answers(server: Live) -> None:
    assert (await server.chat("hello")).status == 200


def assert_error(answer: Answer) -> None:
    assert answer.status == 400, answer.body
    assert answer.error["type"] == "invalid_request_error" and answer.error["message"]


def test_bodies_that_are_no_json() -> None:
    async def test(server: Live) -> None:
        for path in (CHAT, "/v1/completions"):
            for body in NO_JSON.values():
                assert_error(await server.ask("POST", path, body))
        await still_answers(server)

    run_live(test)


def test_bodies_nested_too_deeply() -> None:
    async def test(server: Live) -> None:
        for field in ("unknown", "tools", "messages", "logit_bias", "prompt", "user"):
            for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
                body = b'{"model":"echo","%s":%s1%s}' % (field.encode(), opening * DEEP, closing * DEEP)
                assert_error(await server.ask("POST", CHAT, body))
        await still_answers(server)

    run_live(test)


@pytest.mark.parametrize("body", ["[]", "1", '"x"', "null", "true", "[{}]"])
def test_bodies_that_are_no_object(body: str) -> None:
    async def test(server: Live) -> None:
        assert_error(await server.ask("POST", CHAT, body.encode()))

    run_live(test)


def test_malformed_http() -> None:
    async def test(server: Live) -> None:
        for name, data in MALFORMED_HTTP.items():
            assert await status_of(server, data) in (b"400", b"431", b"501"), name
        await still_answers(server)

    run_live(test)


async def status_of(server: Live, data: bytes) -> bytes:
    async with server.connect() as client:
        client.writer.write(data)
        return (await client.reader.readline()).split(b" ")[1]


def test_connections_that_end_anywhere() -> None:
    """Every prefix of a request, then silence."""
    body = json.dumps(chat_body("hello")).encode()
    request = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    async def test(server: Live) -> None:
        for end in range(0, len(request), 7):
            async with server.connect() as client:
                await client.send(request[:end])
        await still_answers(server)
        await server.until_idle()

    run_live(test)


def test_a_second_request_behind_the_first() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            request = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
            await client.send(request * 5)
            for _ in range(5):
                assert (await client.answer()).status == 200

    run_live(test)


def test_strange_http2() -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    frames: list[bytes] = [
        b"",
        b"\x00" * 100,
        b"\xff" * 100,
        b"\x00\x00\x04\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff",  # headers that are no HPACK
        b"\x00\x00\x00\x00\x01\x00\x00\x00\x01",  # data for no stream
    ]

    async def test(server: Live) -> None:
        for frame in frames:
            async with server.connect() as client:
                await client.send(preface + frame)
                client.writer.write_eof()
                await client.reader.read()
        await still_answers(server)

    run_live(test)


def test_many_at_once() -> None:
    bodies: list[Any] = [*NO_JSON.values()]

    async def test(server: Live) -> None:
        answers = await asyncio.gather(*(server.ask("POST", CHAT, body) for body in bodies * 3))
        assert {answer.status for answer in answers} == {400}
        await still_answers(server)

    run_live(test)
