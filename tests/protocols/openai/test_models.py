"""GET /v1/models and GET /v1/models/{id}."""

import asyncio
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.fakes.gguf_writer import model
from tests.fakes.pool import fake_model
from tests.program import inside
from tests.server.live import Live, run_live

pytestmark = pytest.mark.program


def listed(answer: Any) -> dict[str, Any]:
    content = answer.json()
    assert content["object"] == "list"
    return {entry["id"]: entry for entry in content["data"]}


def test_what_is_listed(tmp_path: Path) -> None:
    echo = model(llama__context_length=None).write(tmp_path / "echo.gguf")
    os.utime(echo, (1_700_000_000, 1_700_000_000))
    model(general__file_type=15, tokenizer__chat_template="x").write(tmp_path / "known.gguf")
    model(general__architecture="bert", bert__block_count=1, bert__pooling_type=4).write(tmp_path / "judge.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")

    async def test(server: Live) -> None:
        models = listed(await server.ask("GET", "/v1/models"))
        assert list(models) == ["broken", "echo", "judge", "known"]
        assert models["echo"] == {
            "id": "echo",
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": "shimmy",
            "status": "valid",
            "reason": None,
            "state": "unloaded",
            "source": "--model-dirs",
            "size": echo.stat().st_size,
            "quantization": "F32",
            "num_parameters": 2088,
            "capabilities": ["completion"],
            "context_length": None,
            "training_context_length": None,
            "template_source": "chatml",
            "layers": None,
            "buffers": None,
            "adapters": None,
        }
        broken, known = models["broken"], models["known"]
        assert broken["status"] == "invalid" and broken["reason"].startswith("truncated")
        assert (broken["quantization"], broken["num_parameters"], broken["template_source"]) == (None, None, None)
        assert (known["quantization"], known["training_context_length"]) == ("Q4_K_M", 4096)
        assert known["template_source"] == "gguf"
        assert (models["judge"]["capabilities"], models["judge"]["template_source"]) == (["rerank"], None)
        assert broken["capabilities"] == []

    run_live(test, folder=tmp_path)


def test_a_loaded_model_says_what_it_is_loaded_with() -> None:
    async def test(server: Live) -> None:
        await server.chat("hi")
        entry = (await server.ask("GET", "/v1/models/echo")).json()
        assert (entry["state"], entry["context_length"], entry["template_source"]) == ("ready", 4096, "chatml")

    run_live(test)


@inside("names that no file has")
def test_one_model_by_any_id() -> None:
    ids = ["llama3.2:1b", "org/name", "hf.co/org/name:Q4_K_M", "a model", "ä%2Fb", "models", "a?b#c"]

    async def test(server: Live) -> None:
        for id in ids:
            for path in {quote(id), quote(id, safe=""), quote(id, safe="/:")}:
                answer = await server.ask("GET", f"/v1/models/{path}")
                assert (answer.status, answer.json()["id"]) == (200, id)

    run_live(test, *ids)


def test_models_that_are_not_there_or_not_fit() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("GET", "/v1/models/nope")
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
        answer = await server.ask("GET", "/v1/models/broken")
        assert (answer.status, answer.error["code"]) == (422, "model_invalid")
        assert "cannot be served: truncated" in answer.error["message"]

    run_live(test, fake_model("broken", invalid="truncated"))


def test_a_file_that_came_later_is_listed(tmp_path: Path) -> None:
    async def test(server: Live) -> None:
        model().write(tmp_path / "late.gguf")
        while not (models := listed(await server.ask("GET", "/v1/models"))):
            await asyncio.sleep(0.1)  # a scan is good for two seconds
        assert list(models) == ["late"]

    run_live(test, folder=tmp_path)


def test_no_models_is_an_empty_list(tmp_path: Path) -> None:
    async def test(server: Live) -> None:
        assert listed(await server.ask("GET", "/v1/models")) == {}

    run_live(test, folder=tmp_path)
