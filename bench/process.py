"""A server started for measuring: its processes, their memory and their processor time, from /proc."""

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

import msgspec

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 15.0
_MOMENT_SECONDS = 0.1
_MOST_MOMENTS = 50
_TAIL_LINES = 20


class Memory(msgspec.Struct, frozen=True):
    """Bytes over all processes. `rss` counts a page shared by two twice, `pss` once; `anonymous` leaves out files."""

    rss: int
    pss: int
    anonymous: int
    num_processes: int


class Server:
    """One run of `command`, where "{port}" stands for a free port. `exec_at` is when it was started (perf_counter)."""

    def __init__(self, command: str, log: Path) -> None:
        self.port = free_port()
        words = [word.replace("{port}", str(self.port)) for word in shlex.split(command)]
        # A Python server that may not keep its byte code would compile all of itself at every start.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        with log.open("ab") as sink:
            self.exec_at = time.perf_counter()
            self._process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        self._log = log

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check_alive(self) -> None:
        """Exits, with the end of the server's output, when it is gone."""
        if self._process.poll() is not None:
            tail = self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
            sys.exit("\n".join([*tail, f"bench: the server ended with status {self._process.returncode}"]))

    def memory(self) -> Memory:
        """Of the process and all its descendants."""
        totals = {"Rss": 0, "Pss": 0, "Anonymous": 0}
        pids = descendants(self._process.pid)
        for pid in pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                key, _, value = line.partition(":")
                if key in totals:
                    totals[key] += int(value.split()[0]) * 1024
        return Memory(totals["Rss"], totals["Pss"], totals["Anonymous"], len(pids))

    def cpu_seconds(self) -> float:
        """User and system time of the process and all its living descendants since they started."""
        fields = [_stat(pid) for pid in descendants(self._process.pid)]
        return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS_PER_SECOND

    async def rest(self) -> None:
        """Returns when it has done nothing for a moment: some go on after an answer, as llama-server's
        threads, which look for more work, and would take from the other."""
        before = -1.0
        for _ in range(_MOST_MOMENTS):
            if (now := self.cpu_seconds()) == before:
                return
            before = now
            await asyncio.sleep(_MOMENT_SECONDS)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def descendants(pid: int) -> list[int]:
    """`pid` and every living process below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:
                continue
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name (proc(5)): 0 is the state, 1 the parent."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
