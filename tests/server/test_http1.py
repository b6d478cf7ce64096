"""What h11 alone answers with 400."""

import json

import pytest

from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program

HEALTH = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
LAST = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
BODY = json.dumps(chat_body("hello")).encode()


def chat(version: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /v1/chat/completions HTTP/" + version, b"host: localhost", b"content-length: %d" % len(BODY)]
    return b"\r\n".join([*lines, *headers, b"", BODY])


def test_empty_lines_before_a_request_are_ignored() -> None:
    async def test(server: Live) -> None:
        for sent in ([b"\r\n\r\n", HEALTH], [b"\r\n" + HEALTH], [chat(b"1.1") + b"\r\n" + HEALTH]):
            async with server.connect() as client:
                for piece in sent:
                    await client.send(piece)
                for _ in range(b"".join(sent).count(b"HTTP/1.1")):
                    assert (await client.answer()).status == 200

    run_live(test)


def test_what_follows_the_last_request_is_ignored() -> None:
    async def test(server: Live) -> None:
        for sent in (
            LAST + HEALTH,
            LAST + b"\x00",
            chat(b"1.1", b"connection: close") + b"\r\n",
            chat(b"1.0") + b"\r\n",
        ):
            async with server.connect() as client:
                await client.send(sent)
                assert (await client.answer()).status == 200
                assert not await client.reader.read()

    run_live(test)
