"""The models, for clients that say which version of Anthropic's API they take."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.fakes.gguf_writer import model
from tests.protocols.anthropic.exchange import error_of
from tests.server.live import Live, run_live

pytestmark = pytest.mark.program
NAMES = ("a", "b", "c", "d", "e")


async def get(server: Live, path: str, version: str | None = "2023-06-01") -> Any:
    async with server.connect() as client:
        await client.request("GET", path, **({"anthropic_version": version} if version else {}))
        return await client.answer()


async def page(server: Live, query: str) -> tuple[list[str], bool]:
    content = (await get(server, f"/v1/models?{query}")).json()
    ids = [entry["id"] for entry in content["data"]]
    assert (content["first_id"], content["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    return ids, content["has_more"]


def test_the_header_decides_whose_shape_they_have() -> None:
    async def test(server: Live) -> None:
        ours, theirs = (await get(server, "/v1/models")).json(), (await get(server, "/v1/models", None)).json()
        assert [entry["type"] for entry in ours["data"]] == ["model"] and "object" not in ours
        assert theirs["object"] == "list" and theirs["data"][0]["id"] == ours["data"][0]["id"] == "echo"
        one = (await get(server, "/v1/models/echo")).json()
        assert one == ours["data"][0] and one["display_name"]
        assert datetime.fromisoformat(one["created_at"]).tzinfo == UTC
        assert (await get(server, "/v1/models/echo", None)).json()["object"] == "model"

    run_live(test)


def test_errors_have_the_shape_that_was_asked_for() -> None:
    async def test(server: Live) -> None:
        assert error_of(await get(server, "/v1/models/nope"))[:2] == (404, "not_found_error")
        assert (await get(server, "/v1/models/nope", None)).error["code"] == "model_not_found"
        for query in ("limit=0", "limit=1001", "limit=x", "limit=%C2%B2", "after_id=nope", "before_id=nope"):
            status, kind, message = error_of(await get(server, f"/v1/models?{query}"))
            assert (status, kind) == (400, "invalid_request_error") and message.startswith(query.partition("=")[0])

    run_live(test)


def test_only_what_answers_to_messages_is_listed(tmp_path: Path) -> None:
    model(llama__context_length=4096, general__name="Echo 1B").write(tmp_path / "echo.gguf")
    model(general__architecture="bert", bert__block_count=1, bert__pooling_type=4).write(tmp_path / "judge.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")

    async def test(server: Live) -> None:
        [entry] = (await get(server, "/v1/models")).json()["data"]
        assert (entry["id"], entry["display_name"], entry["max_input_tokens"]) == ("echo", "Echo 1B", 4096)
        assert (await get(server, "/v1/models/judge")).status == 200

    run_live(test, folder=tmp_path)


def test_pages() -> None:
    async def test(server: Live) -> None:
        assert await page(server, "") == (list(NAMES), False)
        assert await page(server, "limit=2") == (["a", "b"], True)
        assert await page(server, "limit=2&after_id=b") == (["c", "d"], True)
        assert await page(server, "limit=2&after_id=d") == (["e"], False)
        assert await page(server, "after_id=e") == ([], False)
        assert await page(server, "limit=2&before_id=d") == (["b", "c"], True)
        assert await page(server, "limit=2&before_id=c") == (["a", "b"], False)

    run_live(test, *NAMES)


def test_the_sdk_goes_through_all_pages() -> None:
    async def test(server: Live) -> None:
        async with anthropic.AsyncAnthropic(api_key="x", base_url=f"http://127.0.0.1:{server.port}") as client:
            assert [each.id async for each in client.models.list(limit=2)] == list(NAMES)
            assert (await client.models.retrieve("c")).type == "model"

    run_live(test, *NAMES)
