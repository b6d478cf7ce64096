"""Opens what is said to be a model's file. Knows nothing of what is in it."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from shimmy.core.errors import ModelInvalid


@contextmanager
def regular_file(path: str) -> Iterator[tuple[BinaryIO, int]]:
    """The file, unbuffered, and its size in bytes. What fails within is a `ModelInvalid` too; its cause is the OSError
    when the file cannot be read."""
    try:
        with _open(path) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelInvalid("not a regular file")
            yield file, status.st_size
    except OSError as error:
        raise ModelInvalid(f"cannot be read: {error.strerror or error}") from error


def _open(path: str) -> BinaryIO:
    # Without O_NONBLOCK the open itself would wait for the other end of a FIFO.
    extra = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    return open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | extra))
