"""The native libraries that the frozen program carries: unpacked on first need into a folder of this user's cache.

Its name contains their hash, so what is there is either right or broken. A library is checked each time a process opens
it: by its contents or, when these were found right since the system started, by what nobody can change without leaving
a trace in the file's status. A broken one is unpacked again. This module knows nothing of what the libraries do.
"""

import importlib
import io
import os
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from shimmy.core.caches import roots
from shimmy.worker.llama.trust import is_ours

# The module that build/payload.py writes: what the stream in the executable consists of.
INDEX = "_shimmy_native"
_PREFIX = "native-"
_SEAL = ".seal"
# Windows keeps this in access lists, and a user's folders there are the user's.
_OTHERS_MAY_WRITE = 0o022 if hasattr(os, "geteuid") else 0
_BUFFER_BYTES = 1 << 17
# More than the clock of any file system takes from one time to the next.
CLOCK_SECONDS = 2.5
_KEEP_UNUSED_SECONDS = 30 * 86400.0


class Payload:
    """`files` has the size in bytes and the CRC-32 of each library, in the order in which the xz stream has them.

    A CRC tells damage, not malice: against that, nobody else may write to the folder.
    """

    def __init__(
        self,
        identity: str,
        files: Mapping[str, tuple[int, int]],
        stream: Callable[[], bytes],
        roots: Callable[[], Iterable[Path]],
        seldom: Iterable[str] = (),
    ) -> None:
        """`seldom` are the last ones in the stream: they are unpacked when one of them is asked for, and not before."""
        self._folder_name = _PREFIX + identity
        self._files = files
        self._seldom = frozenset(seldom)
        self._stream = stream
        self._roots = roots

    def names(self) -> list[str]:
        return list(self._files)

    def find(self, name: str) -> Path:
        """The library's file, checked. Raises `OSError` that names every folder when it can be put into none."""
        reasons = []
        for root in self._roots():
            folder = root / self._folder_name
            try:
                self._provide(folder, name)
                return folder / name
            except OSError as error:
                reasons.append(f"{root}: {error.strerror or error}")
        raise OSError("the native libraries cannot be unpacked: " + "; ".join(reasons))

    def _provide(self, folder: Path, name: str) -> None:
        if not (_is_private(folder) and self._is_whole(folder, name)):
            _make_private(folder.parent)
            _discard_exposed(folder)
            _make_private(folder)
            with _alone(folder):
                self._unpack(folder, self._together_with(name))
            _prune(folder)
        _require_executable(folder)

    def _is_whole(self, folder: Path, name: str) -> bool:
        try:
            before = _trace(folder / name)
            sealed = _sealed(folder)
            if before and sealed.get(name) == before:
                return True
            if _measure(folder / name) != self._files[name]:
                return False
        except OSError:
            return False
        if before:
            _seal(folder, sealed | {name: before})
        return True

    def _together_with(self, name: str) -> list[str]:
        return [each for each in self._files if name in self._seldom or each not in self._seldom]

    def _unpack(self, folder: Path, wanted: Iterable[str]) -> None:
        """Writes what of it is missing or broken; another process may have been faster."""
        broken = [name for name in wanted if not self._is_whole(folder, name)]
        if not broken:
            return
        import lzma

        with lzma.open(io.BytesIO(self._stream())) as stream:
            for name, (size, checksum) in self._files.items():
                try:
                    content = stream.read(size)
                except (lzma.LZMAError, EOFError):
                    content = b""
                if zlib.crc32(content) != checksum:
                    raise OSError("the executable is damaged")
                if name in broken:
                    _write(folder / name, content)
                    if name == broken[-1]:
                        return


def _trace(path: Path) -> str:
    """What tells that a file is still the same: nobody can set the time of a status change.

    Empty when that was just now, because another change could have the same time; and where the system gives its starts
    no name, because what a power cut spoils leaves no trace."""
    status = path.stat()
    started = _start_of_system()
    if not started or time.time() - status.st_ctime < CLOCK_SECONDS:
        return ""
    return f"{started} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


@cache
def _start_of_system() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def _sealed(folder: Path) -> dict[str, str]:
    """The traces of files whose contents were right."""
    try:
        with open(folder / _SEAL) as file:
            return dict(line.rstrip("\n").split(" ", 1) for line in file if " " in line)
    except (OSError, ValueError):
        return {}


def _seal(folder: Path, traces: Mapping[str, str]) -> None:
    """By one rename. When it cannot be written, contents are read the next time, too."""
    try:
        _write(folder / _SEAL, "".join(f"{name} {trace}\n" for name, trace in traces.items()).encode())
    except OSError:
        pass


def _measure(path: Path) -> tuple[int, int]:
    """Size and CRC-32, through a small buffer: a new one as large as the file would cost as much as the sum."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    size = checksum = 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            size, checksum = size + count, zlib.crc32(buffer[:count], checksum)
    return size, checksum


def _write(path: Path, content: bytes) -> None:
    """By one rename: whoever has the old file open, or mapped, keeps it."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        # On Windows this would only say that nothing may take the file's place, nor remove it.
        if _OTHERS_MAY_WRITE:
            partial.chmod(0o500)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _is_private(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and is_ours(status) and not status.st_mode & _OTHERS_MAY_WRITE


def _make_private(folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or not is_ours(status):
            raise PermissionError(f"{folder} is not ours") from None
        if status.st_mode & _OTHERS_MAY_WRITE:
            folder.chmod(0o700)


def _discard_exposed(folder: Path) -> None:
    """What lay where others could write is not trusted."""
    if folder.exists() and not _is_private(folder):
        import shutil

        shutil.rmtree(folder)


def _require_executable(folder: Path) -> None:
    if hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_NOEXEC:
        raise PermissionError("mounted noexec")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process unpacks, others wait. Where nothing can be locked they do it all, each with the same result."""
    with open(folder / ".lock", "w") as file:
        if _lock(file.fileno()):
            # Of a process that died: ".<file>.<process>", see `_write`.
            # One may be the seal that a process which unpacks nothing is just writing.
            for path in folder.glob(".*.*"):
                path.unlink(missing_ok=True)
        yield


def _lock(descriptor: int) -> bool:
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except (ImportError, OSError):
        return False
    return True


def _prune(folder: Path) -> None:
    """Drops the libraries of other versions that were last unpacked a month ago; a version in use does that again."""
    for path in folder.parent.glob(f"{_PREFIX}*"):
        if path != folder and _is_old(path):
            import shutil

            shutil.rmtree(path, ignore_errors=True)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _KEEP_UNUSED_SECONDS
    except FileNotFoundError:
        # Another process was faster.
        return False


@cache
def carried() -> Payload:
    """What this executable carries."""
    index = importlib.import_module(INDEX)
    return Payload(index.ID, index.FILES, lambda: _stream(index.STREAM_BYTES), lambda: roots(os.environ), index.SELDOM)


def extensions() -> dict[str, str]:
    """The extension modules among the files, by name."""
    found: dict[str, str] = importlib.import_module(INDEX).EXTENSIONS
    return found


def needed(extension: str) -> list[str]:
    """The libraries among the files that an extension module asks the system for: to be opened before it, in this
    order, because the system would look for its own."""
    found: dict[str, list[str]] = importlib.import_module(INDEX).NEEDED
    return found.get(extension, [])


def _stream(num_bytes: int) -> bytes:
    """From the executable, at the place where PyInstaller's bootloader expects an archive of modules and tells where it
    is; the modules are elsewhere (spec/start.py)."""
    path, _, offset = sys._pyinstaller_pyz.rpartition("?")  # type: ignore[attr-defined]
    with open(path, "rb") as file:
        file.seek(int(offset))
        return file.read(num_bytes)
