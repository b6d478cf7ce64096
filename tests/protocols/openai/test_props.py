"""GET /props and /slots."""

from pathlib import Path
from typing import Any

import pytest

from tests.fakes.gguf_writer import model
from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program


def test_props_of_the_only_model(tmp_path: Path) -> None:
    path = model(tokenizer__chat_template="{{ messages }}").write(tmp_path / "echo.gguf")

    async def test(server: Live) -> None:
        for target in ("/props", "/props?model=echo"):
            props = (await server.ask("GET", target)).json()
            assert props["default_generation_settings"]["n_ctx"] == 4096
            assert (props["model_alias"], props["model_path"]) == ("echo", str(path))
            assert (props["chat_template"], props["total_slots"] > 0) == ("{{ messages }}", True)
            assert not any(props["modalities"].values())

    run_live(test, folder=tmp_path)


async def slots(server: Live) -> list[dict[str, Any]]:
    answer = await server.ask("GET", "/slots")
    assert answer.status == 200
    return list(answer.json())


def test_slots_are_those_of_a_loaded_model_and_say_how_many_run() -> None:
    async def test(server: Live) -> None:
        assert await slots(server) == []
        await server.chat("hello")
        found = await slots(server)
        assert [slot["id"] for slot in found] == list(range(len(found)))
        assert not any(slot["is_processing"] for slot in found) and found[0]["n_ctx"] == 4096
        async with server.connect() as client:
            await client.request("POST", "/v1/chat/completions", chat_body("!stall 1", stream=True))
            await client.head()
            assert sum(slot["is_processing"] for slot in await slots(server)) == 1
            assert (await server.ask("GET", "/slots?fail_on_no_slot=1")).status == 200

    run_live(test)


def test_all_slots_taken_is_an_error_where_that_is_asked_for() -> None:
    async def test(server: Live) -> None:
        await server.chat("hello")
        body = {"model": "echo", "prompt": ["!stall 1"] * len(await slots(server)), "stream": True, "max_tokens": 9}
        async with server.connect() as client:
            await client.request("POST", "/v1/completions", body)
            await client.head()
            while not all(slot["is_processing"] for slot in await slots(server)):
                pass
            refused = await server.ask("GET", "/slots?fail_on_no_slot=1")
            assert (refused.status, refused.error["code"]) == (503, "unavailable")

    run_live(test)


def test_one_of_several_has_to_be_named(tmp_path: Path) -> None:
    for name in ("one", "two"):
        model().write(tmp_path / f"{name}.gguf")

    async def test(server: Live) -> None:
        for path in ("/props", "/slots"):
            assert (await server.ask("GET", path)).error["param"] == "model"
            assert (await server.ask("GET", f"{path}?model=nope")).status == 404
        for path in ("/props", "/slots"):
            assert (await server.ask("GET", f"{path}?model=two")).json()

    run_live(test, folder=tmp_path)
