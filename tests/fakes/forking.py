"""Processes to be killed, that begin at once: a program that has everything imported forks them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any

# After what defines `work`: calls that in a new process for each line it reads, and writes its id.
_FORKS = """
import os, signal, sys, traceback
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            # At once, as it may be killed at this very moment.
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(1)
    print(child, flush=True)
"""


@contextmanager
def forking(program: str, environ: Mapping[str, str], stderr: IO[str]) -> Iterator[Callable[[], int]]:
    """Yields what starts one more process, which calls the `work` that `program` defines, and returns its id."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr, "text": True}
    with subprocess.Popen([sys.executable, "-c", program + _FORKS], env=environ, **pipes) as parent:
        assert parent.stdin and parent.stdout
        commands, answers = parent.stdin, parent.stdout

        def fork() -> int:
            print(file=commands, flush=True)
            return int(answers.readline())

        yield fork
        commands.close()


def kill(pid: int, seconds: float = 30.0) -> None:
    """One of them; returns when it is gone."""
    over = time.monotonic() + seconds
    with suppress(ProcessLookupError):
        while time.monotonic() < over:
            os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)
