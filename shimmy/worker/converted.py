"""The GGUF files that stand for checkpoints: each made when it is first needed, and kept in this user's cache.

An entry is named after the folder that it was made of, and after the state in which its files were: one that changes is
converted anew, and the old entry goes. Beside the entries of a folder lies a file with its path, which is their lock
and, by its time, says when they were last used.
"""

import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from shimmy.convert.conversion import VERSION, Plan, plan
from shimmy.core.caches import roots
from shimmy.core.errors import ModelInvalid, ShimmyError
from shimmy.models.names import title_of_folder
from shimmy.worker.convert import write_whole
from shimmy.worker.llama.trust import is_ours

_FOLDER = "converted"
_SOURCE = ".source"
# How often a process that waits for another one's work looks whether it is over.
_LOCK_SECONDS = 0.1
_OTHERS_MAY_WRITE = 0o022 if hasattr(os, "geteuid") else 0

log = logging.getLogger("shimmy.worker")


def converted(paths: Sequence[str], on_progress: Callable[[float], None]) -> str:
    """The file that stands for the checkpoint in `paths` (see `files_of`); `on_progress` gets the fraction written, and
    nothing where it was there already. Raises `ModelInvalid` for what cannot be converted, `ShimmyError` where there is
    no room for it."""
    folder = _folder()
    source = os.path.dirname(paths[0])
    key = _digest(source)
    target = folder / f"{key}-{_state(paths)}.gguf"
    with _alone(folder / f"{key}{_SOURCE}", source):
        if not target.exists():
            made = plan(paths, title_of_folder(source))
            _make_room(folder, made, key)
            with suppress(FileExistsError):
                write_whole(made, str(target), str(folder / f".{key}.partial"), on_progress)
            if folder / f"{key}-{_state(paths)}.gguf" != target:
                target.unlink()
                raise ModelInvalid(f"{source} has changed while it was converted")
            _drop(path for path in folder.glob(f"{key}-*.gguf") if path != target)
    return str(target)


def _folder() -> Path:
    """Raises `ShimmyError` when there is none that only this user writes to."""
    reasons = []
    for root in roots(os.environ):
        folder = root / _FOLDER
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and is_ours(status) and not status.st_mode & _OTHERS_MAY_WRITE:
                return folder
            reasons.append(f"{folder} is not this user's alone")
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
    raise ShimmyError(f"the model has to be converted, and there is no place for it: {'; '.join(reasons)}")


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def _state(paths: Sequence[str]) -> str:
    """As the catalog tells versions apart, but for the device, which has another number after a restart."""
    try:
        statuses = [os.stat(path) for path in paths]
    except OSError as error:
        raise ModelInvalid(f"{error.filename} cannot be read: {error.strerror}") from error
    names = [os.path.basename(path) for path in paths]
    known = [(name, each.st_ino, each.st_size, each.st_mtime_ns) for name, each in zip(names, statuses, strict=True)]
    return _digest(f"{VERSION} {known}")


@contextmanager
def _alone(path: Path, source: str) -> Iterator[None]:
    """One process converts, others wait for it. Where nothing can be locked the last one's file counts."""
    try:
        with open(path, "a+b") as file:
            _lock(file.fileno())
            file.truncate(0)
            file.write(source.encode("utf-8", "surrogateescape"))
            file.flush()
            yield
    except OSError as error:
        raise ShimmyError(f"{path} cannot be written: {error.strerror or error}") from error


def _lock(descriptor: int) -> None:
    """Wakes now and then while it waits: a worker that sleeps on seems to hang."""
    with suppress(ImportError, OSError):
        import fcntl

        while True:
            try:
                return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOCK_SECONDS)


def _make_room(folder: Path, made: Plan, key: str) -> None:
    """Drops what was made of folders that are gone and then, until there is room, what was not used for the longest
    time. What is in use keeps its file until then, but not its name."""
    sources = sorted(folder.glob(f"*{_SOURCE}"), key=lambda path: path.stat().st_mtime)
    for path in sources:
        stem = path.name.removesuffix(_SOURCE)
        is_gone = not os.path.isdir(path.read_bytes().decode("utf-8", "surrogateescape"))
        if stem != key and (is_gone or shutil.disk_usage(folder).free < made.tensor_bytes):
            _drop(folder.glob(f"{stem}-*.gguf"))
            if is_gone:
                _drop([path])


def _drop(paths: Iterator[Path] | list[Path]) -> None:
    for path in paths:
        # Windows removes nothing that is open.
        with suppress(OSError):
            path.unlink()
            log.info("dropped %s", path)
