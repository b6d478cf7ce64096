import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shimmy.hardware.sleep import Rest, rest

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

WAKES_ASIDE = """
import threading, time
def wake():
    while True:
        time.sleep(0.001)
threading.Thread(target=wake, daemon=True).start()
input()
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


def asleep(pid: int) -> Rest:
    """Once it stays so."""
    found: list[Rest | None] = [None]

    def is_asleep() -> bool:
        found.append(rest(pid))
        return found[-1] is not None and not found[-1].on_disk and found[-3:] == [found[-1]] * 3

    until(is_asleep)
    assert found[-1] is not None
    return found[-1]


def test_who_waits_for_something_sleeps_and_whoever_wakes_it_is_seen() -> None:
    with process(READS) as waiting:
        before = asleep(waiting.pid)
        assert waiting.stdin is not None
        waiting.stdin.write(b"\n")
        waiting.stdin.flush()
        until(lambda: (found := rest(waiting.pid)) is not None and found.main > before.main)


def test_a_thread_that_wakes_is_seen_and_is_not_the_main_one() -> None:
    with process(WAKES_ASIDE) as waking:

        def is_main_one_still() -> bool:
            before = seen(waking.pid, 0)
            return seen(waking.pid, before.all + 100).main == before.main

        # It may have to begin first.
        until(is_main_one_still)


def seen(pid: int, num_sleeps: int) -> Rest:
    """Once there have been more of them."""
    found: list[Rest] = []

    def is_seen() -> bool:
        now = rest(pid)
        if now is not None and now.all > num_sleeps:
            found.append(now)
        return bool(found)

    until(is_seen)
    return found[0]


def test_who_is_stopped_does_not_sleep() -> None:
    with process(READS) as waiting:
        asleep(waiting.pid)
        waiting.send_signal(signal.SIGSTOP)
        until(lambda: state(waiting.pid) == "T")
        assert rest(waiting.pid) is None
        waiting.send_signal(signal.SIGCONT)
        asleep(waiting.pid)


def test_who_has_a_thread_that_runs_does_not_sleep() -> None:
    with process(RUNS_ASIDE) as running:
        until(lambda: len(os.listdir(f"/proc/{running.pid}/task")) == 2 and state(running.pid) == "S")
        assert rest(running.pid) is None


SWITCHES = "voluntary_ctxt_switches:\t7\nnonvoluntary_ctxt_switches:\t5\n"


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (f"State:\tS (sleeping)\n{SWITCHES}", Rest(12, 24, False)),
        (f"State:\tD (disk sleep)\n{SWITCHES}", Rest(12, 24, True)),
        (f"State:\tt (tracing stop)\n{SWITCHES}", None),
        (f"State:\tR (running)\n{SWITCHES}", None),
        ("State:\tS (sleeping)\n", None),
        (SWITCHES, None),
        ("", None),
    ],
)
def test_what_the_system_says_is_read(tmp_path: Path, status: str, found: Rest | None) -> None:
    for thread, said in (("7", f"State:\tS (sleeping)\n{SWITCHES}"), ("8", status)):
        folder = tmp_path / "7" / "task" / thread
        folder.mkdir(parents=True)
        (folder / "status").write_text(said)
    assert rest(7, tmp_path) == found


def test_of_who_has_gone_nothing_is_said(tmp_path: Path) -> None:
    assert rest(7, tmp_path) is None
