"""GGUF files and checkpoints in folders, however the folders are arranged. Looks at names and kinds of files only,
never into them."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import groupby

import msgspec

from shimmy.core.modelfile import NOTHING, Own
from shimmy.models import checkpoint
from shimmy.models.names import name_of_file, name_of_folder, printable, shards_of

MAX_DEPTH = 8
MAX_ENTRIES = 100_000

log = logging.getLogger("shimmy.models")


class Found(msgspec.Struct, frozen=True):
    """A model's file, or all its shards in order. `reason` says why it cannot be served, if that is known already;
    `is_whole` that nobody is still writing it. It also answers to its `aliases`, if nothing else does. `own` is what
    comes with it beside its weights."""

    name: str
    paths: tuple[str, ...]
    reason: str | None = None
    aliases: tuple[str, ...] = ()
    is_whole: bool = False
    own: Own = NOTHING


class File:
    """One file that a person named, or the folder of a checkpoint, or a file in it: it is listed whatever it holds, and
    whatever it is called."""

    named = True
    depth = 0

    def __init__(self, label: str, path: str) -> None:
        self.label = label
        self.place = os.path.abspath(os.path.expanduser(path))

    def find(self) -> Iterator[Found]:
        is_folder = os.path.isdir(self.place)
        if is_folder or self.place.endswith(checkpoint.WEIGHTS):
            folder = self.place if is_folder else os.path.dirname(self.place)
            yield _checkpoint(folder) or Found(name_of_folder(folder), (), "there is no config.json with .safetensors")
        elif os.path.exists(self.place):
            yield from as_models([self.place])


class Folder:
    """Everything that ends in `.gguf`, and every checkpoint, below a folder, `depth` levels down (1 is the folder
    itself)."""

    named = False

    def __init__(self, label: str, path: str, depth: int = MAX_DEPTH) -> None:
        self.label = label
        self.place = os.path.abspath(os.path.expanduser(path))
        self.depth = depth

    def find(self) -> Iterator[Found]:
        yield from models_in(self.place, self.depth)


class DataFolder:
    """The folder the operating system gives Shimmy for its data. Asked for late, as the import takes milliseconds."""

    named = False
    label = "data folder"
    depth = MAX_DEPTH

    @property
    def place(self) -> str:
        from platformdirs import user_data_dir

        return os.path.join(user_data_dir("shimmy", appauthor=False), "models")

    def find(self) -> Iterator[Found]:
        yield from models_in(self.place)


class HuggingFaceCache:
    """The snapshots of a Hugging Face hub cache: `models--org--name/snapshots/revision/...`."""

    named = False
    label = "Hugging Face cache"
    depth = MAX_DEPTH

    def __init__(self, path: str) -> None:
        self.place = os.path.abspath(os.path.expanduser(path))

    def find(self) -> Iterator[Found]:
        for entry in _entries(self.place):
            if entry.name.startswith("models--"):
                yield from models_in(os.path.join(entry.path, "snapshots"))


def models_in(root: str, depth: int = MAX_DEPTH) -> Iterator[Found]:
    """What is below `root`."""
    for folder, paths in groupby(regular_files(root, depth), os.path.dirname):
        files = list(paths)
        yield from as_models(path for path in files if path.lower().endswith(".gguf"))
        if found := _checkpoint(folder, files):
            yield found


def _checkpoint(folder: str, files: Iterable[str] | None = None) -> Found | None:
    if files is None:
        files = [entry.path for entry in _entries(folder) if os.path.isfile(entry.path)]
    found = checkpoint.files_of(folder, map(os.path.basename, files))
    if found is None:
        return None
    name = name_of_folder(folder)
    if printable(folder) != folder:
        return Found(name, (), f"its path is not plain text: {printable(folder)}")
    return Found(name, *found)


def as_models(paths: Iterable[str]) -> Iterator[Found]:
    """Groups shards; a set that is not whole is found with the reason."""
    seen: set[str] = set()
    for path in paths:
        shards = shards_of(path) or [path]
        if shards[0] in seen:
            continue
        seen.add(shards[0])
        yield _found(name_of_file(path), shards)


def _found(name: str, shards: list[str]) -> Found:
    if any(printable(shard) != shard for shard in shards):
        return Found(name, (), f"its path is not plain text: {printable(shards[0])}")
    missing = [shard for shard in shards if not os.path.isfile(shard)] if len(shards) > 1 else []
    if missing:
        present = tuple(shard for shard in shards if shard not in missing)
        first = os.path.basename(missing[0])
        return Found(name, present, f"{len(missing)} of {len(shards)} shards are missing, the first is {first}")
    return Found(name, tuple(shards))


def regular_files(root: str, depth: int = MAX_DEPTH) -> Iterator[str]:
    """Regular files in a fixed order, links followed, hidden names and unreadable folders left out."""
    for _, entries in walk(root, depth):
        for entry in entries:
            if _is(entry.is_file):
                yield entry.path


def walk(root: str, depth: int, leave_out: str | None = None) -> Iterator[tuple[str, list["os.DirEntry[str]"]]]:
    """Each folder, `root` first, with what in it is no folder. Each is visited once, by whatever links, none that is
    called `leave_out`, and no more than `MAX_ENTRIES` entries in all are looked at."""
    pending = [(root, 1)]
    visited: set[tuple[int, int]] = set()
    entries_left = MAX_ENTRIES
    while pending and entries_left >= 0:
        folder, level = pending.pop()
        if not _is_new(folder, visited):
            continue
        folders, others = [], []
        for entry in _entries(folder):
            entries_left -= 1
            if entries_left < 0:
                _warn_of_many(root)
                break
            if _is(entry.is_dir):
                folders.append(entry)
            else:
                others.append(entry)
        yield folder, others
        if level < depth:
            pending += [(entry.path, level + 1) for entry in reversed(folders) if entry.name != leave_out]


@cache
def _warn_of_many(root: str) -> None:
    """Once, not with each scan."""
    log.warning("%s has more than %d entries, the rest is not searched", root, MAX_ENTRIES)


def _is_new(folder: str, visited: set[tuple[int, int]]) -> bool:
    """False for a folder that was reached by another way before: links may form loops."""
    try:
        status = os.stat(folder)
    except OSError:
        return False
    key = (status.st_dev, status.st_ino)
    new = key not in visited
    visited.add(key)
    return new


def _entries(folder: str) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        log.debug("%s is not searched: %s", folder, error.strerror)
        return []


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:
        return False
