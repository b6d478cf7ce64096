"""The loading bar: on a terminal only, and gone when loading ended."""

import io
import shutil
from os import terminal_size

import pytest

from shimmy.cli.progress import LoadingBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_draws_on_a_terminal_and_leaves_an_empty_line() -> None:
    terminal = Terminal()
    bar = LoadingBar(terminal)
    for fraction in (0.0, 0.5, 0.501, 1.0):
        bar("tiny", fraction)
    assert terminal.getvalue() == (
        "\r\x1b[Kloading [------------------------]   0 % tiny\r"
        "\r\x1b[Kloading [############------------]  50 % tiny\r"
        "\r\x1b[K\r"
    )


def test_says_what_is_done() -> None:
    terminal = Terminal()
    LoadingBar(terminal, action="quantizing")("6 of 12 tensors", 0.5)
    assert terminal.getvalue() == "\r\x1b[Kquantizing [############------------]  50 % 6 of 12 tensors\r"


def test_writes_nothing_elsewhere() -> None:
    pipe = io.StringIO()
    bar = LoadingBar(pipe)
    bar("tiny", 0.5)
    bar.clear()
    assert pipe.getvalue() == ""


def test_a_load_that_failed_is_cleared_once() -> None:
    terminal = Terminal()
    bar = LoadingBar(terminal)
    bar("tiny", 0.5)
    drawn = terminal.getvalue()
    bar.clear()
    bar.clear()
    assert terminal.getvalue() == drawn + "\r\x1b[K\r"


def test_a_long_name_does_not_wrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: terminal_size((60, 24)))
    terminal = Terminal()
    LoadingBar(terminal)("n" * 100, 0.5)
    assert len(terminal.getvalue().strip("\r").removeprefix("\x1b[K")) == 59
