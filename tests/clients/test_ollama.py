"""Ollama's API as its clients use it, against the real program and the real demo model."""

import json
import urllib.request
from typing import Any

import pytest

from tests.program import DEMO_ID, Program

pytestmark = [pytest.mark.model, pytest.mark.program]
TOKYO = [{"role": "user", "content": "What is the capital of Japan?"}]


def post(server: Program, path: str, body: dict[str, Any]) -> list[Any]:
    """The objects of an answer, one for each line."""
    request = urllib.request.Request(server.url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [json.loads(line) for line in answer.read().splitlines()]


def test_a_model_is_shown_asked_and_unloaded(server: Program) -> None:
    name = server.get("/api/tags")["models"][0]["name"]
    assert name == f"{DEMO_ID}:latest"
    (shown,) = post(server, "/api/show", {"model": name})
    assert shown["details"]["family"] == "llama" and shown["model_info"]["llama.context_length"] == 8192
    assert "completion" in shown["capabilities"] and shown["template"]
    options = {"temperature": 0, "num_predict": 30, "num_ctx": 100_000}
    *deltas, end = post(server, "/api/chat", {"model": name, "messages": TOKYO, "options": options})
    assert "".join(each["message"]["content"] for each in deltas) == "The capital of Japan is Tokyo."
    assert (end["done_reason"], end["prompt_eval_count"], end["eval_count"]) == ("stop", 37, 7)
    assert server.get("/api/ps")["models"][0]["context_length"] == 2048
    (whole,) = post(server, "/api/generate", {"model": name, "prompt": "1 2 3", "stream": False, "options": options})
    assert whole["response"] and whole["total_duration"] > whole["eval_duration"] > 0
    (unloaded,) = post(server, "/api/generate", {"model": name, "keep_alive": 0})
    assert unloaded["done_reason"] == "unload" and server.get("/api/ps") == {"models": []}
