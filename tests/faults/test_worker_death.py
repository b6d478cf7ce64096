"""A worker that dies takes its own streams with it, each with an error event, and nothing else."""

import json
import os
import shutil
import signal
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, OpenAI

from tests.program import DEMO, DEMO_ID, LIMIT_SECONDS, Program, program

pytestmark = [pytest.mark.model, pytest.mark.program]
LONG: Any = [{"role": "user", "content": "Count from one to one thousand in words."}]
# No answer ends before its limit.
ENDLESS = {"ignore_eos": True}


def client_of(running: Program) -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0)


def state_of(running: Program, model: str) -> str:
    (found,) = [entry for entry in running.get("/v1/models")["data"] if entry["id"] == model]
    return str(found["state"])


def wait_until_ready(running: Program, model: str) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while state_of(running, model) != "ready":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_killed_worker_ends_its_streams_with_an_error_and_comes_back(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(DEMO, folder)
    shutil.copy(DEMO, folder / "other.gguf")
    with program(tmp_path, "--ctx", "8192") as running, client_of(running) as client:
        ask: Any = client.chat.completions.create
        # It goes on for much longer than the other model takes to begin.
        doomed = ask(model=DEMO_ID, messages=LONG, stream=True, max_tokens=8000, extra_body=ENDLESS)
        assert next(iter(doomed)).choices
        (doomed_pid,) = running.worker_pids()
        healthy = ask(model="other", messages=LONG, stream=True, max_tokens=40, extra_body=ENDLESS)
        assert next(iter(healthy)).choices
        os.kill(doomed_pid, number)
        with pytest.raises(APIError) as caught:
            list(doomed)
        assert caught.value.code == "worker_lost"
        assert number.name in str(caught.value)
        assert list(healthy)[-1].choices[0].finish_reason == "length"
        wait_until_ready(running, DEMO_ID)
        again = ask(model=DEMO_ID, messages=LONG, max_tokens=3, extra_body=ENDLESS)
        assert again.usage.completion_tokens == 3


def test_a_truncated_model_is_listed_as_invalid_and_refused(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with open(DEMO, "rb") as source:
        (tmp_path / "models" / "half.gguf").write_bytes(source.read(40 << 20))
    with program(tmp_path) as running:
        (listed,) = running.get("/v1/models")["data"]
        assert (listed["id"], listed["status"]) == ("half", "invalid")
        body = json.dumps({"model": "half", "messages": LONG}).encode()
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(running.url + "/v1/chat/completions", body, timeout=LIMIT_SECONDS)
        error = json.load(caught.value)["error"]
        assert (caught.value.code, error["code"]) == (422, "model_invalid")
        assert "truncated" in error["message"]
        assert running.get("/health")["status"] == "ok"


def test_a_worker_is_the_same_program(tmp_path: Path) -> None:
    with program(tmp_path, "--model-path", str(DEMO)) as running:
        wait_until_ready(running, DEMO_ID)
        (worker,) = running.worker_pids()
        assert os.readlink(f"/proc/{worker}/exe") == os.readlink(f"/proc/{running.process.pid}/exe")


def test_workers_die_with_a_server_that_is_killed(tmp_path: Path) -> None:
    # It does not end as it should.
    with pytest.raises(AssertionError), program(tmp_path, "--model-path", str(DEMO)) as running:
        wait_until_ready(running, DEMO_ID)
        (worker,) = running.worker_pids()
        running.process.kill()
    deadline = time.monotonic() + LIMIT_SECONDS
    while is_alive(worker):
        assert time.monotonic() < deadline, "the worker outlived its server"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
