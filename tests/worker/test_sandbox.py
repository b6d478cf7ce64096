"""What a worker gives up: all of it on Linux, and on the other systems what these have, seen by playing them."""

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shimmy.worker import sandbox

REPORT = """
from shimmy.worker import sandbox
sandbox.enter()
import os, resource, signal
print(os.getcwd(), resource.getrlimit(resource.RLIMIT_CORE), signal.getsignal(signal.SIGINT).name)
print([line for line in open("/proc/self/status") if line.startswith("NoNewPrivs")])
print(open("/proc/self/oom_score_adj").read())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the other systems have less of it")
def test_a_worker_on_linux() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", REPORT], cwd=root, capture_output=True, text=True)
    assert done.stdout.splitlines()[:3] == ["/ (0, 0) SIG_IGN", "['NoNewPrivs:\\t1\\n']", "500"], done.stderr


@pytest.fixture
def ignored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The signals that are ignored from now on. Nothing else of this process changes either."""
    found: list[int] = []

    def note(number: int, handler: Any) -> None:
        assert handler is signal.SIG_IGN
        found.append(number)

    def refuse(name: str | None) -> Any:
        raise AssertionError(f"{name} is opened")

    monkeypatch.setattr(signal, "signal", note)
    monkeypatch.setattr(os, "chdir", lambda path: None)
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    return found


def test_where_there_is_no_prctl(ignored: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[Any] = []
    resource = SimpleNamespace(RLIMIT_CORE=4, setrlimit=lambda *given: limits.append(given))
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setitem(sys.modules, "resource", resource)
    sandbox.enter()
    assert (limits, ignored) == ([(4, (0, 0))], [signal.SIGINT])


def test_where_there_are_no_limits_either(ignored: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    msvcrt = SimpleNamespace(SEM_FAILCRITICALERRORS=1, SEM_NOGPFAULTERRORBOX=2, SetErrorMode=modes.append)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(signal, "SIGBREAK", 21, raising=False)
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setitem(sys.modules, "msvcrt", msvcrt)
    sandbox.enter()
    assert (modes, ignored) == ([3], [signal.SIGINT, 21])


def test_without_proc_the_kernel_picks_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_proc(path: str, flags: int) -> int:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "open", no_proc)
    sandbox._prefer_as_oom_victim()
