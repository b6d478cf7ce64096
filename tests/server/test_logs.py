import json
import logging
import os
import select
import threading
from collections.abc import Iterator

import pytest

from shimmy.server import logs
from shimmy.server.access import Access


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A pipe in the place of stderr; what is yielded is its reading end."""
    reader, writer = os.pipe()
    monkeypatch.setattr(logs, "_STDERR", writer)
    yield reader
    os.close(writer)
    try:
        os.close(reader)
    except OSError:
        pass


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("shimmy")
    before = (root.level, root.handlers[:], ours.level)
    yield
    root.handlers[:] = before[1]
    root.setLevel(before[0])
    ours.setLevel(before[2])


def lines(reader: int) -> list[str]:
    return os.read(reader, 1 << 16).decode().splitlines()


def test_text_lines(stderr: int) -> None:
    logs.configure("text")
    fields = {"id": "req_1", "path": "/a b", "empty": "", "seconds": 0.5, "odd": 'x="\n'}
    logging.getLogger("shimmy.test").info("request", extra={"fields": fields})
    logging.getLogger("other").info("not ours, not important")
    logging.getLogger("other").warning("not ours, but important")
    first, second = lines(stderr)
    assert first.endswith(r'INFO request id=req_1 path="/a b" empty="" seconds=0.5 odd="x=\"\n"')
    assert second.endswith("WARNING not ours, but important")


def test_json_lines(stderr: int) -> None:
    logs.configure("json")
    log = logging.getLogger("shimmy.test")
    log.info("request %d", 7, extra={"fields": {"id": "req_1", "status": 200}})
    try:
        raise ValueError("boom\nboom")
    except ValueError:
        log.exception("it broke")
    first, second = [json.loads(line) for line in lines(stderr)]
    assert (first["message"], first["level"], first["id"], first["status"]) == ("request 7", "info", "req_1", 200)
    assert first["time"].endswith("Z")
    assert "ValueError: boom\nboom" in second["exception"]


def test_a_pipe_that_nobody_reads_costs_lines_and_no_time(stderr: int) -> None:
    for number in range(3000):
        logs.say(f"{number} " + "x" * 100)
    written = lines(stderr)
    assert written[0].startswith("0 ") and len(written) < 3000
    logs.say("and on")
    assert lines(stderr)[-1] == "and on"


def test_a_line_longer_than_the_pipe_does_not_block(stderr: int) -> None:
    logs.say("x" * (1 << 20))
    assert os.read(stderr, 1 << 20).startswith(b"xxx")


def test_a_reader_that_left_is_no_error(stderr: int) -> None:
    os.close(stderr)
    logs.say("into the void")
    logs.configure("text")
    logging.getLogger("shimmy").warning("into the void")


def test_threads_say_something_one_after_the_other(stderr: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poll:
        """Like the system's: of two that ask at once one gets an error."""

        num_asking = 0

        def poll(self, timeout: int) -> list[tuple[int, int]]:
            self.num_asking += 1
            if self.num_asking > 1:
                raise RuntimeError("concurrent poll() invocation")
            if not other.ident:
                other.start()
                other.join(0.1)
            self.num_asking -= 1
            return [(0, select.POLLOUT)]

    poll, other = Poll(), threading.Thread(target=logs.say, args=("two",))
    monkeypatch.setattr(logs, "_poll", lambda fd: poll)
    logs.say("one")
    other.join()
    assert lines(stderr) == ["one", "two"]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_an_access_line_says_what_is_known(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    access = Access("req_1", "POST", "/v1/completions", clock=clock)
    clock.now += 0.25
    access.saw_text()
    clock.now += 0.25
    access.saw_text()
    access.model, access.status, access.num_tokens = "m" * 1000, 200, 3
    with caplog.at_level(logging.INFO, "shimmy"):
        access.log()
    assert vars(caplog.records[0])["fields"] == {
        "id": "req_1",
        "method": "POST",
        "path": "/v1/completions",
        "model": "m" * 200,
        "status": 200,
        "ttft": 0.25,
        "tokens": 3,
        "seconds": 0.5,
    }


def test_the_first_text_of_an_answer_that_comes_whole_is_as_old_as_the_answer() -> None:
    clock = Clock()
    access = Access("req_1", "POST", "/v1/completions", clock=clock)
    access.saw_end(1.0)
    assert access.first_text_at is None
    clock.now += 2.0
    access.saw_text()
    access.saw_end(0.5)
    access.saw_end(0.25)
    assert access.first_text_at == 101.5
    access.saw_end(5.0)
    assert access.first_text_at == access.started_at


@pytest.mark.parametrize(
    ("path", "status", "num_lines"), [("/health", 200, 0), ("/readyz", 503, 1), ("/v1/models", 200, 1)]
)
def test_probes_that_succeed_are_not_logged(
    path: str, status: int, num_lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "shimmy"):
        Access("req_1", "GET", path, status=status).log()
    assert len(caplog.records) == num_lines
