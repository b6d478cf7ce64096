"""The folder outside the checkout that keeps what is slow to make, shared by all checkouts of one person.

Knows nothing of what it keeps. An entry appears by one rename, so whatever is there is whole.
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that is making {name}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(message: str) -> None:
    """To a person; stdout stays free for results."""
    print(f"shimmy build: {message}", file=sys.stderr, flush=True)
