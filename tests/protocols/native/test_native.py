"""The original Shimmy's API over fake workers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from shimmy.protocols.native.generate import is_native
from tests.fakes import gguf_writer
from tests.program import inside
from tests.server.live import Live, run_inside, run_live

pytestmark = pytest.mark.program


def ask(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "prompt": prompt, "max_tokens": 9, **fields}


@pytest.mark.parametrize(
    ("fields", "accept", "expected"),
    [
        ({"prompt": "a"}, "", False),
        ({"prompt": "a"}, "text/event-stream", True),
        ({"messages": []}, "", True),
        ({"prompt": "a", "max_tokens": 1}, "*/*", True),
        ({"prompt": "a", "temperature": 0, "options": {}}, "", False),
        ({"prompt": "a", "temperature": 0, "keep_alive": "5m"}, "", False),
    ],
)
def test_one_route_tells_two_forms_apart(fields: dict[str, Any], accept: str, expected: bool) -> None:
    assert is_native(json.dumps({"model": "m"} | fields).encode(), accept) is expected


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model":"\xff"}', b"[" * 100_000])
def test_what_is_no_json_is_ollama_s(content: bytes) -> None:
    assert not is_native(content, "")


def test_a_whole_answer_has_nothing_but_its_text() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", "/api/generate", ask("one two", stream=False))
        assert answer.json() == {"response": "one two"}

    run_live(test)


def test_a_stream_is_raw_text() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", "/api/generate", ask("!say one\ntwo"))
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.body == b"data: one\ndata: two\n\ndata: [DONE]\n\n"
        answer = await server.ask("POST", "/api/generate", ask("!crash SIGABRT 1"))
        assert answer.body.startswith(b"data: w0\n\ndata: [ERROR] ") and b"[DONE]" not in answer.body

    run_live(test)


def test_a_request_becomes_a_generation() -> None:
    async def test(server: Live) -> None:
        messages = [{"role": "user", "content": "!request"}]
        body = {"model": "echo", "messages": messages, "system": "Be brief.", "top_k": 3, "stream": False}
        generation = json.loads((await server.ask("POST", "/api/generate", body)).json()["response"])
        assert generation["max_tokens"] == 256 and generation["sampling"]["top_k"] == 3
        assert [message["content"] for message in generation["prompt"]["messages"]] == ["Be brief.", "!request"]
        plain = (await server.ask("POST", "/api/generate", ask("!request", stream=False))).json()
        assert json.loads(plain["response"])["prompt"] == {"type": "text", "text": "!request"}

    run_live(test)


@pytest.mark.parametrize(
    ("body", "status"), [(ask("a", model="nope"), 404), (ask(""), 400), (ask("a", temperature=-1), 400)]
)
def test_errors_have_a_status(body: dict[str, Any], status: int) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", "/api/generate", body)
        assert answer.status == status and set(answer.json()) == {"error", "code"}

    run_live(test)


def test_models_are_loaded_and_unloaded_for_real() -> None:
    async def test(server: Live) -> None:
        async def status() -> Any:
            return (await server.ask("GET", "/api/models/echo/status")).json()

        assert await status() == {"model": "echo", "status": "unloaded", "loaded": False}
        loaded = (await server.ask("POST", "/api/models/echo/load")).json()
        assert loaded == {"message": "Model echo is loaded", "status": "loaded", "workers": 1}
        assert await status() == {"model": "echo", "status": "ready", "loaded": True, "workers": 1}
        pid = await server.say("!pid")
        assert Path(f"/proc/{pid}").exists()
        unloaded = (await server.ask("POST", "/api/models/echo/unload")).json()
        assert unloaded == {"message": "Model echo is unloaded", "status": "unloaded"}
        assert not Path(f"/proc/{pid}").exists()
        assert await status() == {"model": "echo", "status": "unloaded", "loaded": False}
        assert (await server.ask("POST", "/api/models/echo/unload")).status == 200
        assert await server.say("again") == "again"
        for path, method in (("load", "POST"), ("unload", "POST"), ("status", "GET")):
            assert (await server.ask(method, f"/api/models/nope/{path}")).status == 404

    run_live(test)


@inside("it looks at the requests inside")
def test_a_model_in_use_stays() -> None:
    async def test(server: Any) -> None:
        async with server.connect() as client:
            await client.request("POST", "/api/generate", ask("!stall 1"))
            await client.head()
            assert (await server.ask("POST", "/api/models/echo/unload")).status == 409
            assert (await server.ask("GET", "/api/models/echo/status")).json()["loaded"] is True
        await server.until_active(0)

    run_inside(test)


def test_models_are_listed_and_discovered(tmp_path: Path) -> None:
    async def test(server: Live) -> None:
        gguf_writer.model().write(tmp_path / "tiny.gguf")
        # A file that comes while the server runs counts once nobody has written to it for a moment.
        while not (found := (await server.ask("POST", "/api/models/discover")).json())["models"]:
            await asyncio.sleep(0.1)
        (entry,) = found["models"]
        assert found["discovered"] == 1 and entry["name"] == "tiny" and entry["source"] == "registered"
        assert set(entry) == {"name", "size_bytes", "model_type", "parameter_count", "source"}
        assert (await server.ask("GET", "/api/models")).json() == {"models": [entry]}
        assert (await server.ask("GET", "/api/models/tiny/status")).json()["loaded"] is False

    run_live(test, folder=tmp_path)
