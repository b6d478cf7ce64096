"""Main memory: how much there is and how much of it is left for this process; in a container, of what that has."""

import os
from collections.abc import Iterator
from typing import NamedTuple

_Path = str | os.PathLike[str]


class Memory(NamedTuple):
    total_bytes: int
    available_bytes: int


def memory(proc: _Path = "/proc", cgroup: _Path = "/sys/fs/cgroup") -> Memory | None:
    """None where the system does not say.

    The pages of files count as available, since the kernel can read them again; those that this process has mapped do
    not: they are its model.
    """
    try:
        system = _fields(os.path.join(proc, "meminfo"))
        total, available = 1024 * system["MemTotal"], 1024 * system["MemAvailable"]
        mapped = 1024 * _fields(os.path.join(proc, "self/status"))["RssFile"]
    except (OSError, KeyError):
        return None
    for folder in _groups(proc, cgroup):
        if limit := _limit(folder):
            total, available = min(total, limit.total_bytes), min(available, limit.available_bytes)
    return Memory(total, max(0, available - mapped))


def anonymous_bytes(pid: int, proc: _Path = "/proc") -> int | None:
    """What a process has that is no file's; None where the system does not say, or where it has gone."""
    try:
        return 1024 * _fields(os.path.join(proc, str(pid), "status"))["RssAnon"]
    except (OSError, KeyError):
        return None


def _groups(proc: _Path, cgroup: _Path) -> Iterator[str]:
    """The folders of this process's control group (v2) and of those around it: each of them may have a limit."""
    folder = os.fspath(cgroup)
    yield folder
    try:
        path = next(line[3:] for line in _read(os.path.join(proc, "self/cgroup")).splitlines() if line[:3] == "0::")
    except (OSError, StopIteration):
        return
    for name in path.split("/"):
        if name not in ("", ".."):
            folder = os.path.join(folder, name)
            yield folder


def _limit(cgroup: str) -> Memory | None:
    """What it allows; None if that is everything."""
    try:
        limit, used = (int(_read(os.path.join(cgroup, name))) for name in ("memory.max", "memory.current"))
        fields = _fields(os.path.join(cgroup, "memory.stat"))
    except (OSError, ValueError):
        return None
    return Memory(limit, limit - used + fields.get("active_file", 0) + fields.get("inactive_file", 0))


def _fields(path: _Path) -> dict[str, int]:
    """The numbers of a file of lines like "MemTotal: 24684512 kB" or "active_file 4096"."""
    return dict(_numbers(_read(path)))


def _numbers(text: str) -> Iterator[tuple[str, int]]:
    for line in text.splitlines():
        words = line.split(maxsplit=2)
        if len(words) > 1 and words[1].isdecimal():
            yield words[0].rstrip(":"), int(words[1])


def _read(path: _Path) -> str:
    with open(path) as file:
        return file.read()
