"""Whether a process does anything, as far as the system says what its threads are doing (Linux only)."""

import os
from typing import NamedTuple

_Path = str | os.PathLike[str]


class Rest(NamedTuple):
    """How often the main thread of a process at rest, and all of its threads together, have been put off a CPU until
    now; and whether one of them waits for a disk."""

    main: int
    all: int
    on_disk: bool


def rest(pid: int, proc: _Path = "/proc") -> Rest | None:
    """None unless each of its threads waits until something happens: one that runs, wants to, or has been stopped does
    not. None also where the system does not say."""
    folder = os.path.join(proc, str(pid), "task")
    try:
        threads = {thread: _status(os.path.join(folder, thread, "status")) for thread in os.listdir(folder)}
        states = {status["State"][:1] for status in threads.values()}
        if not states <= {"S", "D"}:
            return None
        nums = {thread: _num_sleeps(status) for thread, status in threads.items()}
        return Rest(nums[str(pid)], sum(nums.values()), "D" in states)
    except (OSError, KeyError, ValueError):
        return None


def _num_sleeps(status: dict[str, str]) -> int:
    return int(status["voluntary_ctxt_switches"]) + int(status["nonvoluntary_ctxt_switches"])


def _status(path: _Path) -> dict[str, str]:
    """Of lines like "State:\\tS (sleeping)"."""
    with open(path) as file:
        fields = (line.partition(":") for line in file)
        return {name: value.strip() for name, _, value in fields}
