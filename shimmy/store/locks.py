"""Advisory locks that a process holds for as long as it lives: `kill -9` releases them."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

if sys.platform == "win32":
    import msvcrt

    def _try(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: str, wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock on the file `path`, which is made for that and removed after it. `wait` is called as long as
    another one has it, and raises to give up. Raises `OSError`."""
    while (descriptor := _acquire(path)) is None:
        wait()
    try:
        yield
    finally:
        # Before it is released: who opened it before must see that it is gone. Windows removes nothing that is open.
        with suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


@contextmanager
def locked_if_free(path: str) -> Iterator[bool]:
    """The same without waiting: whether it was had."""
    try:
        with locked(path, _give_up):
            yield True
    except _Busy:
        yield False


class _Busy(Exception):
    pass


def _give_up() -> None:
    raise _Busy


def _acquire(path: str) -> int | None:
    """None while another one has it. Whoever releases it removes the file: what was opened may be no more there."""
    descriptor = os.open(
        path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o600
    )
    try:
        _try(descriptor)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except OSError as error:
        if not isinstance(error, BlockingIOError | PermissionError | FileNotFoundError):
            os.close(descriptor)
            raise
    os.close(descriptor)
    return None
