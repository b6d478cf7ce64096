"""Whose turn it is, and for how long, as clients of the real program with the demo model see it."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.program import DEMO, DEMO_ID, LIMIT_SECONDS, Program, program

pytestmark = [pytest.mark.model, pytest.mark.program]

# So that no answer ends before its limit.
ENDLESS = {"ignore_eos": True}
# Of an answer that a test is done with long before its end, however long it waits for the processor.
MANY = 8000
# Of a stream whose time is to be up once it has begun: on a busy machine that takes a while.
PATIENCE_SECONDS = (0.3, 1.0, 4.0, 16.0)
LOGGED = re.compile(r" INFO request id=(\S+) ")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's."""
    return tmp_path_factory.mktemp("server") / "stderr.txt"


@pytest.fixture(scope="module")
def server(log: Path) -> Iterator[Program]:
    """One sequence at a time."""
    flags = ["--model-path", str(DEMO), "--ctx", "8192", "--parallel", "1", "--api-key", "ann", "--api-key", "bob"]
    with program(log.parent, *flags) as running:
        ask(running, max_tokens=1)
        yield running


def post(server: Program, key: str, id: str = "", **fields: Any) -> Any:
    body = {"model": DEMO_ID, "prompt": "Once upon a time", "temperature": 0, **ENDLESS, **fields}
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "x-request-id": id}
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
                data = line[6:].strip()
                yield "[DONE]" if data == b"[DONE]" else json.loads(data)


def overdue(server: Program, limit: str, **fields: Any) -> tuple[str, str]:
    """The text of a stream that had begun when the time was up that `limit` names, and its error's code."""
    for seconds in PATIENCE_SECONDS:
        fields[limit] = seconds
        try:
            *chunks, last = events(server, **fields)
        except urllib.error.HTTPError as error:
            error.close()
            continue
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks)
        if text or limit == "queue_timeout":
            return text, last["error"]["code"]
    raise AssertionError("it never begins in time")


@contextmanager
def running_stream(server: Program, key: str = "ann") -> Iterator[None]:
    """The only slot is taken, until the block ends."""
    over = threading.Event()
    begun = threading.Event()

    def read() -> None:
        for _ in events(server, key, max_tokens=MANY):
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
        # A stream begins once its prompt is accepted.
        assert overdue(server, "queue_timeout", max_tokens=1) == ("", "queue_timeout")
    assert ask(server, max_tokens=1, queue_timeout=30)[0] == 200


def test_an_answer_that_takes_too_long_is_a_504_and_frees_its_slot(server: Program) -> None:
    status, answer = ask(server, max_tokens=MANY, timeout=0.3)
    assert (status, answer["error"]["type"], answer["error"]["code"]) == (504, "timeout_error", "deadline_exceeded")
    assert overdue(server, "timeout", max_tokens=MANY)[1] == "deadline_exceeded"
    assert ask(server, max_tokens=1, timeout=60)[0] == 200


def test_a_deadline_holds_in_the_queue_too(server: Program) -> None:
    with running_stream(server):
        status, answer = ask(server, max_tokens=1, timeout=0.2)
        assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")


def race(server: Program, log: Path, *entries: tuple[str, str, dict[str, Any]]) -> list[str]:
    """In which order requests end that wait at the same time, and came in this order: as the server's log has it, since
    here the end of one may be seen after that of the next."""
    ids = {id for id, _, _ in entries}
    with ExitStack() as streams:
        with running_stream(server):
            # The head of a stream comes once the request waits for its turn.
            for id, key, fields in entries:
                streams.enter_context(post(server, key, id, stream=True, max_tokens=8, **fields))
        deadline = time.monotonic() + LIMIT_SECONDS
        while len(ended := [id for id in LOGGED.findall(log.read_text()) if id in ids]) < len(ids):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    return ended


def test_the_lowest_priority_number_goes_first(server: Program, log: Path) -> None:
    entries = [("low", "ann", {"priority": 5}), ("normal", "ann", {}), ("high", "ann", {"priority": -5})]
    assert race(server, log, *entries) == ["high", "normal", "low"]


def test_a_key_with_many_requests_does_not_keep_another_waiting(server: Program, log: Path) -> None:
    entries = [*((f"ann-{number}", "ann", {"priority": -1}) for number in range(4)), ("bob", "bob", {})]
    assert race(server, log, *entries)[0] == "bob", "the stream that ends was one of ann's"
