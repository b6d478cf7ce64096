"""How much of the machine one rendering may take before it ends the process, which has one model's template to lose.

minijinja counts steps, and a single step can take any time and memory: a text that is joined to itself doubles. Nothing
in the process could stop it then, so the system does, where it can. Knows nothing of templates.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from shimmy.worker.memory_limit import turn

LEAST_MEMORY_BYTES = 1 << 30
# Of each core, since the threads that decode meanwhile count too.
CPU_SECONDS = 10.0


@contextmanager
def bounded() -> Iterator[None]:
    """For a moment: more new memory than `allowance` is refused to this process, which native code answers with
    SIGABRT, and 10 s of computing are answered with SIGVTALRM. One at a time, and not while a context is made."""
    if sys.platform != "linux":
        yield
        return
    with turn:
        yield from _limited()


def _limited() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + allowance()
    resource.setrlimit(resource.RLIMIT_DATA, (limit if soft == resource.RLIM_INFINITY else min(limit, soft), hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS * (os.cpu_count() or 1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def allowance() -> int:
    """In bytes; far more than another thread can want at this moment without `turn`, a state of a long sequence say."""
    return max(LEAST_MEMORY_BYTES, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4)


def _data_bytes() -> int:
    """What counts for RLIMIT_DATA (proc_pid_statm(5))."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * os.sysconf("SC_PAGE_SIZE")
