import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shimmy.hardware.sleep import num_sleeps

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what threads do")
LIMIT_SECONDS = 60.0
READS = "import sys; sys.stdin.readline(); sys.stdin.readline()"
RUNS_ASIDE = """
import threading
def spin():
    while True:
        pass
threading.Thread(target=spin).start()
"""


@contextmanager
def process(code: str) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as running:
        try:
            yield running
        finally:
            running.kill()


def until(condition: Callable[[], bool]) -> None:
    gives_up_at = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < gives_up_at
        time.sleep(0.005)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def asleep(pid: int) -> int:
    """Once it stays so."""
    found: list[int | None] = [None]

    def is_asleep() -> bool:
        found.append(num_sleeps(pid))
        return found[-1] is not None and found[-3:] == [found[-1]] * 3

    until(is_asleep)
    assert found[-1] is not None
    return found[-1]


def test_who_waits_for_something_sleeps_and_whoever_wakes_it_is_seen() -> None:
    with process(READS) as waiting:
        before = asleep(waiting.pid)
        assert waiting.stdin is not None
        waiting.stdin.write(b"\n")
        waiting.stdin.flush()
        until(lambda: (num_sleeps(waiting.pid) or 0) > before)


def test_who_is_stopped_does_not_sleep() -> None:
    with process(READS) as waiting:
        asleep(waiting.pid)
        waiting.send_signal(signal.SIGSTOP)
        until(lambda: state(waiting.pid) == "T")
        assert num_sleeps(waiting.pid) is None
        waiting.send_signal(signal.SIGCONT)
        asleep(waiting.pid)


def test_who_has_a_thread_that_runs_does_not_sleep() -> None:
    with process(RUNS_ASIDE) as running:
        until(lambda: len(os.listdir(f"/proc/{running.pid}/task")) == 2 and state(running.pid) == "S")
        assert num_sleeps(running.pid) is None


@pytest.mark.parametrize(
    ("status", "found"),
    [
        ("State:\tS (sleeping)\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n", 12),
        ("State:\tD (disk sleep)\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n", None),
        ("State:\tt (tracing stop)\nvoluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n", None),
        ("State:\tS (sleeping)\n", None),
        ("", None),
    ],
)
def test_what_the_system_says_is_read(tmp_path: Path, status: str, found: int | None) -> None:
    folder = tmp_path / "7" / "task" / "7"
    folder.mkdir(parents=True)
    (folder / "status").write_text(status)
    assert num_sleeps(7, tmp_path) == found


def test_of_who_has_gone_nothing_is_said(tmp_path: Path) -> None:
    assert num_sleeps(7, tmp_path) is None
