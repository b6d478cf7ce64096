"""Signals and limits as systems have them that are not here, and bootloaders that hand signals on."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from shimmy.core.settings import Settings
from shimmy.server import lifecycle
from shimmy.server.inference import Inference
from shimmy.server.listen import Listener

LIMIT_SECONDS = 60


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back what handles signals."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_loop_that_takes_no_signals_is_woken_by_them(
    number: int, handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGUSR1 plays Windows' SIGBREAK."""

    def add_signal_handler(loop: object, number: int, handler: object) -> None:
        raise NotImplementedError

    async def test() -> None:
        told = asyncio.Event()
        monkeypatch.setattr(type(asyncio.get_running_loop()), "add_signal_handler", add_signal_handler)
        lifecycle._on_signals(told.set)
        os.kill(os.getpid(), number)
        async with asyncio.timeout(LIMIT_SECONDS):
            await told.wait()

    monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    asyncio.run(test())


class Ended(Exception):
    """Instead of the end of this process."""


@pytest.mark.parametrize("has_echoes", [False, True])
def test_a_signal_that_is_handed_on_is_no_second_one(has_echoes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyInstaller's own bootloader waits for the server: Ctrl-C reaches both, and the bootloader tells the server."""

    def end(code: int) -> None:
        raise Ended(code)

    async def nothing(*seconds: float) -> None:
        pass

    async def test() -> None:
        inference = cast(Inference, SimpleNamespace(models=None, num_active=0, drain=nothing, close=nothing))
        server = lifecycle.Server(Settings(), Listener("127.0.0.1", "127.0.0.1", 80, -1), inference)
        server._on_signal()
        if has_echoes:
            monkeypatch.setattr(lifecycle, "_ECHO_SECONDS", 3600.0)
            server._on_signal()
            monkeypatch.setattr(lifecycle, "_ECHO_SECONDS", 0.0)
        with pytest.raises(Ended, match="130"):
            server._on_signal()
        assert server._leaving is not None
        await server._leaving

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.delenv("_PYI_PARENT_PROCESS_LEVEL", raising=False)
    if has_echoes:
        monkeypatch.setenv("_PYI_PARENT_PROCESS_LEVEL", "1")
    asyncio.run(test())


class Limits(SimpleNamespace):
    """The module `resource` of a system that takes at most `most` open files."""

    RLIMIT_NOFILE = 7

    def __init__(self, soft: int, hard: int, most: int) -> None:
        self.now, self.most = (soft, hard), most

    def getrlimit(self, kind: int) -> tuple[int, int]:
        return self.now

    def setrlimit(self, kind: int, limits: tuple[int, int]) -> None:
        if limits[0] > self.most:
            raise ValueError("current limit exceeds maximum limit")
        self.now = limits


UNLIMITED = 2**63 - 1


@pytest.mark.parametrize(
    ("system", "soft", "hard", "raised"),
    [
        ("linux", 1024, 4096, 4096),
        ("darwin", 256, UNLIMITED, 10_240),
        ("darwin", 256, 2000, 2000),
        ("darwin", 10_000, UNLIMITED, 10_240),
    ],
)
def test_as_many_files_as_there_may_be(
    system: str, soft: int, hard: int, raised: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = Limits(soft, hard, most=10_240)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setitem(sys.modules, "resource", limits)
    lifecycle._raise_file_limit()
    assert limits.now == (raised, hard)
    assert caplog.text == ""


def test_more_files_than_the_system_admits_stay_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(50_000, UNLIMITED, most=50_000)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "resource", limits)
    lifecycle._raise_file_limit()
    assert limits.now == (50_000, UNLIMITED)


def test_a_limit_that_stays_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "resource", Limits(256, 4096, most=1000))
    with caplog.at_level(logging.WARNING):
        lifecycle._raise_file_limit()
    assert "stays at 256" in caplog.text


def test_without_limits_there_is_nothing_to_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    lifecycle._raise_file_limit()
