import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shimmy.worker import channel

WORKER = """
import os, sys
from shimmy.worker import channel
receiving, sending = channel.take_over_stdio()
os.write(sending, os.read(receiving, 100))
print("a library speaks", flush=True)
print(repr(sys.stdin.read()), file=sys.stderr)
"""


def test_only_frames_leave_by_the_pipe() -> None:
    line = [sys.executable, "-c", WORKER]
    done = subprocess.run(line, cwd=Path(__file__).parents[2], input=b"\r\n\x1aframe", capture_output=True)
    assert (done.stdout, done.stderr) == (b"\r\n\x1aframe", b"a library speaks\n''\n")


def test_line_ends_are_kept_where_the_system_translates_them(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: dict[int, int] = {}
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "O_BINARY", 0x8000, raising=False)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(setmode=modes.__setitem__))
    for name in ("dup2", "open", "close"):
        monkeypatch.setattr(os, name, lambda *descriptors: None)
    monkeypatch.setattr(os, "dup", {0: 7, 1: 8}.__getitem__)
    assert channel.take_over_stdio() == (7, 8)
    assert modes == {7: 0x8000, 8: 0x8000}
