"""Whether a process does anything, as far as the system says what its threads are doing (Linux only)."""

import os

_Path = str | os.PathLike[str]


def num_sleeps(pid: int, proc: _Path = "/proc") -> int | None:
    """How often the main thread of a process has been put off a CPU until now. None unless each of its threads sleeps
    until something happens: one that runs, wants to, has been stopped, or waits for a disk does not."""
    folder = os.path.join(proc, str(pid), "task")
    try:
        threads = {thread: _status(os.path.join(folder, thread, "status")) for thread in os.listdir(folder)}
        if any(not status["State"].startswith("S") for status in threads.values()):
            return None
        main = threads[str(pid)]
        return int(main["voluntary_ctxt_switches"]) + int(main["nonvoluntary_ctxt_switches"])
    except (OSError, KeyError, ValueError):
        return None


def _status(path: _Path) -> dict[str, str]:
    """Of lines like "State:\\tS (sleeping)"."""
    with open(path) as file:
        fields = (line.partition(":") for line in file)
        return {name: value.strip() for name, _, value in fields}
