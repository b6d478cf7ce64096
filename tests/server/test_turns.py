"""Whose turn it is, and for how long, as clients of the real program with the demo model see it."""

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.program import DEMO, DEMO_ID, LIMIT_SECONDS, Program, program

pytestmark = [pytest.mark.model, pytest.mark.program]

# So that no answer ends before its limit: the ids of the model's end-of-text tokens.
ENDLESS = {"logit_bias": {"0": -100, "2": -100}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One sequence at a time."""
    flags = ["--model-path", str(DEMO), "--ctx", "1024", "--parallel", "1", "--api-key", "ann", "--api-key", "bob"]
    with program(tmp_path_factory.mktemp("server"), *flags) as running:
        ask(running, max_tokens=1)
        yield running


def post(server: Program, key: str, **fields: Any) -> Any:
    body = {"model": DEMO_ID, "prompt": "Once upon a time", "temperature": 0, **ENDLESS, **fields}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{server.url}/v1/completions", json.dumps(body).encode(), headers)
    return urllib.request.urlopen(request, timeout=LIMIT_SECONDS)


def ask(server: Program, key: str = "ann", **fields: Any) -> tuple[int, Any]:
    """The status and the answer."""
    try:
        with post(server, key, **fields) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def events(server: Program, key: str = "ann", **fields: Any) -> Iterator[Any]:
    with post(server, key, stream=True, **fields) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                yield line[6:].strip().decode() if b"[DONE]" in line else json.loads(line[6:])


@contextmanager
def running_stream(server: Program, key: str = "ann") -> Iterator[None]:
    """The only slot is taken, until the block ends."""
    over = threading.Event()
    begun = threading.Event()

    def read() -> None:
        for _ in events(server, key, max_tokens=1000):
            begun.set()
            if over.is_set():
                return

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            assert begun.wait(LIMIT_SECONDS)
            yield
        finally:
            over.set()
            reading.result(LIMIT_SECONDS)


def test_a_turn_that_does_not_come_in_time_is_a_408(server: Program) -> None:
    with running_stream(server):
        status, answer = ask(server, max_tokens=1, queue_timeout=0.2)
        assert (status, answer["error"]["type"], answer["error"]["code"]) == (408, "timeout_error", "queue_timeout")
        *_, last = events(server, max_tokens=1, queue_timeout=0.2)
        assert last["error"]["code"] == "queue_timeout", "the stream had begun: its prompt was accepted"
    assert ask(server, max_tokens=1, queue_timeout=30)[0] == 200


def test_an_answer_that_takes_too_long_is_a_504_and_frees_its_slot(server: Program) -> None:
    status, answer = ask(server, max_tokens=1000, timeout=0.3)
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (504, "timeout_error", "deadline_exceeded")
    *chunks, last = events(server, max_tokens=1000, timeout=1.0)
    assert last["error"]["code"] == "deadline_exceeded"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks)
    assert ask(server, max_tokens=1, timeout=60)[0] == 200


def test_a_deadline_holds_in_the_queue_too(server: Program) -> None:
    with running_stream(server):
        status, answer = ask(server, max_tokens=1, timeout=0.2)
        assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")


class Race:
    """Requests that wait at the same time, and in which order they end."""

    def __init__(self, server: Program, pool: ThreadPoolExecutor) -> None:
        self.server, self.pool = server, pool
        self.ended: list[str] = []
        self.tasks: list[Future[None]] = []

    def enter(self, name: str, key: str = "ann", **fields: Any) -> None:
        self.tasks.append(self.pool.submit(self._run, name, key, fields))
        # They arrive in this order.
        time.sleep(0.1)

    def _run(self, name: str, key: str, fields: dict[str, Any]) -> None:
        assert ask(self.server, key, max_tokens=8, **fields)[0] == 200
        self.ended.append(name)


def race(server: Program, *entries: tuple[str, str, dict[str, Any]]) -> list[str]:
    with ThreadPoolExecutor(len(entries)) as pool:
        contest = Race(server, pool)
        with running_stream(server):
            for name, key, fields in entries:
                contest.enter(name, key, **fields)
        for task in contest.tasks:
            task.result(LIMIT_SECONDS)
    return contest.ended


def test_the_lowest_priority_number_goes_first(server: Program) -> None:
    entries = [("low", "ann", {"priority": 5}), ("normal", "ann", {}), ("high", "ann", {"priority": -5})]
    assert race(server, *entries) == ["high", "normal", "low"]


def test_a_key_with_many_requests_does_not_keep_another_waiting(server: Program) -> None:
    entries = [*((f"ann {number}", "ann", {"priority": -1}) for number in range(4)), ("bob", "bob", {})]
    assert race(server, *entries)[0] == "bob", "the stream that ends was one of ann's"
