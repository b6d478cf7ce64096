"""Vectors of a real encoder through the whole program and the official SDK."""

import json
import math
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.models import minilm
from tests.program import LIMIT_SECONDS, Program, program

pytestmark = [pytest.mark.model, pytest.mark.program]
MODEL = "all-minilm-l6-v2.f16"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with program(tmp_path_factory.mktemp("server"), "--model-path", str(minilm.path())) as running:
        yield running


def cosine(a: list[float], b: list[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("fields", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_the_published_similarities(client: OpenAI, fields: Any) -> None:
    answer = client.embeddings.create(model=MODEL, input=minilm.SENTENCES, **fields)
    found = [entry.embedding for entry in answer.data]
    if fields.get("encoding_format") == "base64":
        assert all(isinstance(each, str) for each in found)
        return
    for (one, other), similarity in minilm.SIMILARITIES.items():
        assert cosine(found[one], found[other]) == pytest.approx(similarity, abs=0.002)


def test_it_says_what_it_is_and_generates_nothing(server: Program, client: OpenAI) -> None:
    [listed] = server.get("/v1/models")["data"]
    assert (listed["capabilities"], listed["template_source"], listed["context_length"]) == (["embedding"], None, 512)
    with pytest.raises(BadRequestError, match="generates no text: it is an encoder"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    with pytest.raises(BadRequestError, match="generates no text"):
        client.completions.create(model=MODEL, prompt="Hi", stream=True)


def test_it_does_not_rank(server: Program) -> None:
    body = json.dumps({"model": MODEL, "query": "a", "documents": ["b"]}).encode()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{server.url}/v1/rerank", body, timeout=LIMIT_SECONDS)
    assert json.load(caught.value)["error"]["code"] == "unsupported_parameter"


def test_what_is_too_long_is_named(client: OpenAI) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.embeddings.create(model=MODEL, input=["fine", "word " * 600])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input[1]")
    assert "602 tokens" in caught.value.message and "512" in caught.value.message


def test_a_worker_that_is_killed_goes_unnoticed(server: Program, client: OpenAI) -> None:
    texts = [f"{number} " + "word " * 200 for number in range(50)]
    pids = server.worker_pids()

    def kill() -> None:
        time.sleep(0.15)
        os.kill(pids[0], signal.SIGKILL)

    killing = threading.Thread(target=kill)
    killing.start()
    answer = client.embeddings.create(model=MODEL, input=texts)
    killing.join()
    assert len(answer.data) == len(texts)
    assert server.worker_pids() != pids
