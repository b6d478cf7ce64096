"""Bodies as they arrive on a socket: sizes, times, and what is left unread."""

import asyncio
import json

import pytest

from shimmy.core.settings import Settings
from tests.program import inside
from tests.server.live import Live, chat_body, run_live, with_settings

pytestmark = pytest.mark.program


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends megabytes that nobody wants has longer for them where the machine is busy."""
    monkeypatch.setattr("shimmy.server.body._LINGER_SECONDS", 30.0)


CHAT = "/v1/chat/completions"
LIMIT = Settings().max_body_bytes


def test_a_declared_size_over_the_limit_is_refused_before_it_arrives() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", CHAT, content_length=str(LIMIT + 1))
            answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (413, "request_too_large")
            assert str(LIMIT) in answer.error["message"]

    run_live(test)


def test_an_undeclared_size_is_counted() -> None:
    megabyte = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"

    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.send(f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode())
            for _ in range((LIMIT >> 20) + 1):
                await client.send(megabyte)
            assert (await client.answer()).status == 413

    run_live(test)


def test_a_body_of_exactly_the_limit_is_read() -> None:
    body = json.dumps(chat_body("hello")).encode().ljust(LIMIT)

    async def test(server: Live) -> None:
        assert (await server.ask("POST", CHAT, body)).status == 200
        assert (await server.ask("POST", CHAT, body + b" ")).status == 413

    run_live(test)


@inside("max_body_bytes")
def test_the_limit_can_be_another() -> None:
    body = json.dumps(chat_body("hello")).encode()

    async def test(server: Live) -> None:
        assert (await server.ask("POST", CHAT, body)).status == 200
        assert (await server.ask("POST", CHAT, body + b" ")).status == 413

    run_live(test, settings=with_settings(max_body_bytes=len(body)))


def test_a_huge_refused_body_ends_in_an_answer_and_not_in_a_reset() -> None:
    """The client sends all of it before it reads; with nobody reading, its connection would hang for good."""

    async def test(server: Live) -> None:
        for headers in ({}, {"x_api_key": "sesame"}):
            async with server.connect() as client:
                await client.request("POST", CHAT, b"x" * 30_000_000, **headers)
                answer = await client.answer()
                assert answer.status == (413 if headers else 401)
                assert answer.headers["connection"] == "close"
                assert await client.reader.read() == b""

    run_live(test, settings=with_settings(api_keys=("sesame",)))


@inside("body_seconds")
def test_a_body_that_does_not_arrive_is_given_up() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", CHAT, b"{", content_length="100")
            answer = await client.answer()
            assert (answer.status, answer.error["code"]) == (408, "request_timeout")
            assert answer.headers["connection"] == "close"

    run_live(test, settings=with_settings(body_seconds=0.05))


def test_a_client_that_leaves_within_its_body_is_forgotten() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", CHAT, b"{", content_length="100")
        assert (await server.ask("GET", "/health")).status == 200
        await server.until_idle()

    run_live(test)


def test_slow_but_steady_bodies_are_read() -> None:
    body = json.dumps(chat_body("hello")).encode()

    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", CHAT, b"", content_length=str(len(body)))
            for byte in body:
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.answer()).status == 200

    run_live(test)


def test_a_client_that_asks_before_it_sends() -> None:
    async def test(server: Live) -> None:
        body = json.dumps(chat_body("hello")).encode()
        async with server.connect() as client:
            await client.request("POST", CHAT, b"", content_length=str(len(body)), expect="100-continue")
            await client.reader.readuntil(b"100 ")
            await client.reader.readuntil(b"\r\n\r\n")
            await client.send(body)
            assert (await client.answer()).status == 200

    run_live(test)
