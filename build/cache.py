"""The folder outside the checkout that keeps what is slow to make, shared by all checkouts of one person.

Knows nothing of what it keeps. An entry appears by one rename, so whatever is there is whole.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What flock says, and what Windows says without waiting and after it.
_TAKEN = {errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK}


def root() -> Path:
    """`$SHIMMY_BUILD_CACHE`, else `shimmy-build` in the user's cache folder; created when missing."""
    chosen = os.environ.get("SHIMMY_BUILD_CACHE")
    if not chosen:
        chosen = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "shimmy-build")
    folder = Path(chosen).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the entry `name` alone among all processes; the lock goes with its process, however that ends."""
    with open(root() / f"{name}.lock", "w") as file:
        if not _lock(file.fileno(), wait=False):
            say(f"waiting for another process that is making {name}")
            while not _lock(file.fileno(), wait=True):
                pass
        yield


def _lock(descriptor: int, *, wait: bool) -> bool:
    """False when another process has the lock and we do not wait; Windows waits no longer than ten seconds."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # One byte, whether the file has one or not.
            msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        raise
    return True


def say(message: str) -> None:
    """To a person; stdout stays free for results."""
    print(f"shimmy build: {message}", file=sys.stderr, flush=True)
