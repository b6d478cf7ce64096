"""A file that is not there until it is whole. On Linux it has no name before, so that nothing is left of it however its
process ends. It knows nothing of what is in it.
"""

import errno
import os
import shutil
from contextlib import suppress
from types import TracebackType

from shimmy.core.errors import ShimmyError, StoreFull

# open(2), O_TMPFILE: what kernels and file systems say that have none.
_NEEDS_NAME = {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}
_DESCRIPTORS = "/proc/self/fd"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def require_room(folder: str, num_bytes: int) -> None:
    """Raises `StoreFull`, before anything is begun, and `OSError`."""
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        message = f"the new file has {num_bytes:,} bytes, and {folder} has room for {free:,}"
        raise StoreFull(message, needed_bytes=num_bytes, free_bytes=free)


def not_written(target: str, error: OSError) -> ShimmyError:
    """What is to be raised for an error of the system."""
    kind = StoreFull if error.errno in _FULL else ShimmyError
    return kind(f"{target} cannot be written: {error.strerror or error}")


class Unfinished:
    """`path` is where to write, `descriptor` is open on the same file. Everything raises `OSError`.

    Where a file must have a name, that is `partial`, in the folder of `target`.
    """

    def __init__(self, target: str, partial: str) -> None:
        self._target, self._partial = target, partial
        descriptor = _open_nameless(os.path.dirname(target))
        self._is_nameless = descriptor is not None
        if descriptor is None:
            descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
        self.descriptor = descriptor
        self._is_closed = False
        self.path = f"{_DESCRIPTORS}/{descriptor}" if self._is_nameless else partial

    def publish(self, *, replace: bool) -> None:
        """Puts the file in its place. Raises `FileExistsError` when there is one, unless that may be replaced."""
        os.fsync(self.descriptor)
        if self._is_nameless:
            self._link(self._partial if replace else self._target)
        elif not replace and os.path.lexists(self._target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        # Windows renames no file that is open.
        self._close()
        if replace or not self._is_nameless:
            os.replace(self._partial, self._target)

    def _link(self, name: str) -> None:
        # With a folder named, even if it plays no part, Python calls linkat, which can follow links.
        folder = os.open(_DESCRIPTORS, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.link(str(self.descriptor), name, src_dir_fd=folder)
        finally:
            os.close(folder)

    def __enter__(self) -> "Unfinished":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()
        if kind is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._partial)

    def _close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            os.close(self.descriptor)


def _open_nameless(folder: str) -> int | None:
    """None where files have names."""
    if not hasattr(os, "O_TMPFILE") or not os.path.isdir(_DESCRIPTORS):
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError as error:
        if error.errno in _NEEDS_NAME:
            return None
        raise
