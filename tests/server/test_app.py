import asyncio
import logging

import pytest

from shimmy import __version__
from tests.fakes.pool import FakeCatalog
from tests.program import inside
from tests.server.live import Inside, Live, chat_body, run_inside, run_live

pytestmark = pytest.mark.program


class BrokenCatalog(FakeCatalog):
    def find(self, name: str) -> None:  # type: ignore[override]
        raise ZeroDivisionError("secret detail")


def test_health_says_that_the_process_answers() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("GET", "/health")
        assert answer.status == 200 and answer.json().items() >= {"status": "ok", "version": __version__}.items()
        head = await server.ask("HEAD", "/health")
        assert (head.status, head.body) == (200, b"")

    run_live(test)


@inside("to drain without leaving")
def test_readyz_follows_the_readiness() -> None:
    async def test(server: Inside) -> None:
        assert (await server.ask("GET", "/readyz")).status == 200
        server.readiness.draining = True
        answer = await server.ask("GET", "/readyz")
        assert (answer.status, answer.json()["status"]) == (503, "draining")
        assert (await server.ask("GET", "/health")).status == 200

    run_inside(test)


def test_unknown_paths_and_methods() -> None:
    async def test(server: Live) -> None:
        for method, path in [("GET", "/v1"), ("POST", "/v1/nope"), ("GET", "/v1/models/"), ("GET", "/health/")]:
            answer = await server.ask(method, path)
            assert (answer.status, answer.error["type"]) == (404, "not_found_error"), path
        answer = await server.ask("PUT", "/v1/chat/completions")
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
        assert answer.error["code"] == "method_not_allowed"
        assert (await server.ask("POST", "/v1/models")).headers["allow"] == "GET, HEAD"

    run_live(test)


def test_every_answer_has_a_request_id() -> None:
    async def test(server: Live) -> None:
        assert (await server.ask("GET", "/health", x_request_id="my-id.1")).headers["x-request-id"] == "my-id.1"
        ids = {(await server.ask("GET", path)).headers["x-request-id"] for path in ("/health", "/health", "/nope")}
        assert len(ids) == 3 and all(id.startswith("req_") for id in ids)
        for insane in ("a b", "x" * 129, "<script>", "é"):
            assert (await server.ask("GET", "/health", x_request_id=insane)).headers["x-request-id"].startswith("req_")

    run_live(test)


@inside("a catalogue that fails")
def test_an_unforeseen_error_shows_no_internals(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: Live) -> None:
        answer = await server.chat("hello")
        assert (answer.status, answer.error["type"], answer.error["code"]) == (500, "server_error", "internal_error")
        assert "secret" not in answer.error["message"]
        assert answer.headers["x-request-id"] in answer.error["message"]
        assert answer.headers["x-should-retry"] == "false"
        assert (await server.ask("GET", "/health")).status == 200

    run_live(test, catalog=BrokenCatalog())
    assert "secret detail" in caplog.text


def test_many_requests_on_one_connection() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            for path, status in [("/health", 200), ("/nope", 404), ("/v1/models", 200), ("/health", 200)] * 3:
                await client.request("GET", path)
                assert (await client.answer()).status == status
            for word in ("one", "two"):
                await client.request("POST", "/v1/chat/completions", chat_body(word, stream=True))
                answer = await client.answer()
                assert word.encode() in answer.body and answer.body.endswith(b"data: [DONE]\n\n")

    run_live(test)


def test_websockets_are_refused() -> None:
    async def test(server: Live) -> None:
        key = {"sec_websocket_key": "dGhlIHNhbXBsZSBub25jZQ=="}
        odd = {"sec_websocket_extensions": "permessage-deflate; a=\x01", "sec_websocket_version": "99"}
        for headers, status in [(key, 403), ({}, 400), (odd, 400), (key | odd, 400)]:
            async with server.connect() as client:
                upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec_websocket_version": "13"}
                await client.request("GET", "/v1/models", b"", **(upgrade | headers))
                assert (await client.head()).status == status
        assert (await server.ask("GET", "/health")).status == 200

    run_live(test)


@inside("fields of log records")
def test_the_access_log_has_no_prompts(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: Live) -> None:
        with caplog.at_level(logging.INFO, "shimmy"):
            await server.chat("private words", stream=True)
            await server.ask("GET", "/health")
            await server.chat("private words", model="nope")
            async with server.connect() as client:
                await client.request("POST", "/v1/chat/completions", chat_body("!stall 1"))
                await server.until_active(1)
            await server.until_active(0)
            await asyncio.sleep(0)

    run_live(test)
    lines = [vars(record)["fields"] for record in caplog.records if hasattr(record, "fields")]
    assert [(line["status"], line.get("model")) for line in lines] == [(200, "echo"), (404, "nope"), (499, "echo")]
    assert lines[0]["tokens"] == 2 and 0 <= lines[0]["ttft"] <= lines[0]["seconds"]
    assert lines[1]["error"] == "model_not_found"
    assert "private" not in caplog.text + str(lines)
