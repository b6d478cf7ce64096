"""The bar of a pull: rate and time are those of the last seconds; nothing is drawn where nobody looks."""

import io
from typing import Any

import pytest

from shimmy.cli.pull_bar import PullBar, duration
from shimmy.core.pulling import Progress
from tests.fakes.clock import FakeTime


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def drawn(stream: io.StringIO) -> str:
    return stream.getvalue().rpartition("\x1b[K")[2].rstrip("\r")


def at(completed: int, **fields: Any) -> Progress:
    return Progress("pulling 0123", "0" * 64, "m.gguf", 100_000_000, completed, **fields)


def test_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stream, time = Terminal(), FakeTime()
    bar = PullBar(stream, time.clock)
    bar(Progress("pulling manifest"))
    assert drawn(stream) == "pulling manifest"
    bar(at(10_000_000))
    assert drawn(stream) == "pulling [##----------------------]  10 % 10MB of 100MB  m.gguf"
    for second in range(1, 31):
        time.now += 1.0
        bar(at(10_000_000 + (second if second < 20 else 20 + 2 * (second - 20)) * 1_000_000))
    assert drawn(stream) == "pulling [############------------]  50 % 50MB of 100MB  2MB/s  25s  m.gguf"
    bar.clear()
    assert drawn(stream) == ""


def test_the_line_is_never_longer_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    PullBar(stream)(at(50_000_000))
    assert len(drawn(stream)) == 19


def test_a_file_is_called_what_a_terminal_can_show() -> None:
    stream = Terminal()
    PullBar(stream)(Progress("pulling", "0" * 64, "\x1b[2Jevil\n.gguf", 10, 5))
    assert drawn(stream).endswith("-[2Jevil-.gguf")


def test_nothing_is_drawn_into_a_file() -> None:
    stream = io.StringIO()
    PullBar(stream)(at(5))
    assert stream.getvalue() == ""


def test_durations() -> None:
    assert [duration(each) for each in (0.4, 59.4, 303, 7620)] == ["0s", "59s", "5m03s", "2h07m"]


def test_what_is_waited_for_is_said() -> None:
    stream = Terminal()
    PullBar(stream)(Progress("waiting 12 s: hub answers with status 429", "0" * 64, "tiny.gguf", 10, 5))
    assert "waiting 12 s: hub answers with status 429 [" in stream.getvalue()
