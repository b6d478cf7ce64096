"""The memory limit of a rendering, which holds for all threads, and what may be large beside it."""

import subprocess
import sys

import pytest

# One thread renders, in bounds of 64 MB, while another takes 1 GB at once.
_BESIDE = """
import mmap, sys, threading
from shimmy.worker.chat import bounds
from shimmy.worker.llama import zeroing

zeroing.IS_LAZY = False
bounds.allowance = lambda: 64 << 20
renders, tried = threading.Event(), threading.Event()
# A context waits for the end of the rendering; what else is taken must be tried before that.
seconds = 0.3 if sys.argv[1] == "context" else 60

def render():
    with bounds.bounded():
        renders.set()
        tried.wait(seconds)

def take():
    mmap.mmap(-1, 1 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()

thread = threading.Thread(target=render)
thread.start()
renders.wait()
try:
    if sys.argv[1] == "context":
        with zeroing.on_demand():
            take()
    else:
        take()
    print("taken")
except OSError:
    print("refused")
tried.set()
thread.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process for one thread's memory")
@pytest.mark.parametrize(("kind", "expected"), [("context", "taken"), ("other", "refused")])
def test_a_context_is_made_when_no_rendering_limits_the_memory(kind: str, expected: str) -> None:
    done = subprocess.run([sys.executable, "-c", _BESIDE, kind], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == expected, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process for one thread's memory")
def test_two_renderings_leave_the_limit_as_it_was() -> None:
    """Each takes the limit that it finds for the one to restore."""
    code = """
import resource, threading, time
from shimmy.worker.chat import bounds

before = resource.getrlimit(resource.RLIMIT_DATA)

def render(seconds):
    with bounds.bounded():
        time.sleep(seconds)

threads = [threading.Thread(target=render, args=[seconds]) for seconds in (0.2, 0.1, 0.3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(resource.getrlimit(resource.RLIMIT_DATA) == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "True", done.stderr
