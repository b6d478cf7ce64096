"""A folder of files that only this user may read, shared by any number of processes. It knows no format.

Each call opens the folder anew, so that it may vanish and come back at any time. Files appear whole, by rename, or not
at all. What another user owns, or what is reached through a symbolic link, is not touched.
"""

import errno
import fcntl
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, a pipe of that name would wait for its other end.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_OTHERS = 0o077
_PARTIAL = ".partial"


class File(NamedTuple):
    name: str
    size: int
    used_at: int


class Folder:
    """Safe from any thread. All methods raise `OSError`; a folder that is not there is an empty one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamp(self) -> tuple[int, int, int] | None:
        """Device, inode and time of last change (ns): what is new when a file has come or gone. None without a folder.

        A change within the clock's resolution of the previous one may not show.
        """
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns

    def names(self) -> list[str]:
        """Of everything inside; nothing when there is no folder."""
        try:
            with self._opened() as folder:
                return os.listdir(folder)
        except FileNotFoundError:
            return []

    def files(self) -> list[File]:
        """All regular files, unfinished ones included; nothing when there is no folder."""
        try:
            with self._opened() as folder, os.scandir(folder) as found:
                return [file for each in found if (file := _measured(each))]
        except FileNotFoundError:
            return []

    @contextmanager
    def reading(self, name: str) -> Iterator[io.FileIO]:
        with self._opened() as folder:
            descriptor = os.open(name, os.O_RDONLY | _FILE, dir_fd=folder)
        with open(descriptor, "rb", buffering=0) as file:
            _require_own(os.fstat(descriptor), stat.S_ISREG)
            yield file

    def write(self, name: str, content: Iterable[bytes | memoryview]) -> None:
        """Makes the folder where there is none. `content` is asked for pieces once the file is open."""
        self._make()
        with self._opened() as folder:
            partial = f".{os.urandom(8).hex()}{_PARTIAL}"
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=folder)
            try:
                _lock(descriptor)
                for piece in content:
                    _write_all(descriptor, piece)
                # After the rename a power cut would else leave an entry with holes: a miss, but one that takes room.
                os.fsync(descriptor)
                touch(descriptor)
                os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
            except BaseException:
                _unlink(partial, folder)
                raise
            finally:
                os.close(descriptor)

    def remove(self, name: str) -> None:
        """It may be gone already."""
        try:
            with self._opened() as folder:
                os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass

    def sweep(self) -> None:
        """Removes what processes that died were writing."""
        unfinished = [name for name in self.names() if name.endswith(_PARTIAL)]
        if unfinished:
            with self._opened() as folder:
                for name in unfinished:
                    _remove_abandoned(name, folder)

    def _make(self) -> None:
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            pass
        except FileNotFoundError:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.mkdir(self.path, 0o700)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        descriptor = os.open(self.path, _DIRECTORY)
        try:
            status = os.fstat(descriptor)
            _require_own(status, stat.S_ISDIR)
            if status.st_mode & _OTHERS:
                os.fchmod(descriptor, 0o700)
            yield descriptor
        finally:
            os.close(descriptor)


def touch(descriptor: int) -> None:
    """Makes the file the one that was used last, by our clock, which is finer than the kernel's for files."""
    now = time.time_ns()
    try:
        os.utime(descriptor, ns=(now, now))
    except OSError:
        # On a read-only file system: what is there can be used all the same.
        pass


def _require_own(status: os.stat_result, is_kind: Callable[[int], bool]) -> None:
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "belongs to another user")
    if not is_kind(status.st_mode):
        raise OSError(errno.EINVAL, "is something else than a folder of plain files")


def _measured(found: "os.DirEntry[str]") -> File | None:
    """None when it has gone, or is no regular file."""
    try:
        status = found.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return File(found.name, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def _write_all(descriptor: int, piece: bytes | memoryview) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _lock(descriptor: int) -> None:
    """Says that the writer lives, for as long as it does. Where nothing can be locked, nothing is swept either."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        pass


def _remove_abandoned(name: str, folder: int) -> None:
    """Its writer holds a lock, unless it is dead."""
    try:
        descriptor = os.open(name, os.O_RDONLY | _FILE, dir_fd=folder)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _unlink(name, folder)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        pass
