"""Keeps the catalogue up to date while a server runs: owns the thread that waits for changes in the model folders, and
decides when it is time to look at the files that changed, or to scan. It knows no model and changes nothing itself.

Scans have at most a quarter of that thread's time, however much happens in the folders, and so have looks at files.
What the system does not tell (network mounts, folders that appear) the slow rescan finds, and sooner whoever asks for
the listing.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, Protocol

from shimmy.models.asking import Asking, NoAnswerError
from shimmy.models.catalog import Catalog
from shimmy.models.checkpoint import may_be_part
from shimmy.models.discovery import Source
from shimmy.models.folders import MAX_ENTRIES, DataFolder, Folder, walk
from shimmy.models.listing import Change
from shimmy.models.names import printable, shards_of
from shimmy.models.notifications import GONE, MODIFIED, Changes, Notifications
from shimmy.models.scan import is_written_now

MAX_FOLDERS = 4096
# Between the end of one scan and the next, or of one look: at least, and as a multiple of what it took.
_PAUSE_SECONDS = 0.2
_PAUSE_SHARE = 3
# The slow rescan, where all is watched and where something is not.
_WATCHED_SECONDS = 10.0
_UNWATCHED_SECONDS = 2.0
_RESCAN_SHARE = 100
# How often files that are being written are looked at, and after how much of it a wait ends in any case.
_SETTLING_SECONDS = 0.2
# So many files that come at once are not looked at one by one: there is a scan.
_MANY = 1000
_MODEL = ".gguf"
_WEIGHTS = (_MODEL, ".safetensors")
# Stores keep there, under names of their own, what has another name elsewhere.
_BLOBS = "blobs"

log = logging.getLogger("shimmy.models")


class Told(Protocol):
    def wait(self, seconds: float, stopped: threading.Event) -> Changes: ...
    def close(self) -> None: ...


class Watch:
    """`start` once, then `stop`."""

    def __init__(self, catalog: Catalog, notify: Callable[[Sequence[str]], Told] = Notifications) -> None:
        self._catalog = catalog
        self._notify = notify
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._asking = Asking(catalog.patience_seconds) if catalog.patience_seconds is not None else None
        self._told: Told | None = None
        # Those that are watched, each with its source where files in it can be looked at one by one.
        self._folders: dict[str, Source | None] = {}
        self._named = {source.place for source in catalog.sources if source.named}
        self._is_complete = True
        # Whether there may be something new, and whether there may be other folders.
        self._is_stale = self._are_folders_stale = True
        # Models' files that came, changed or went: they are of interest when they are no longer written.
        self._coming: set[str] = set()
        self._scanned_at = float("-inf")
        self._scan_seconds = 0.0
        # Not before these times (monotonic), so that the thread rests.
        self._next_scan_at = self._next_look_at = float("-inf")

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float = 2.0) -> None:
        """Returns when the thread has ended, or after `seconds`: a network mount can hold a scan up for ever."""
        self._stopped.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                if self._is_due():
                    self._scan()
                elif not self._look_again():
                    self._note(self._wait())
        except Exception:
            log.exception("the model folders are no longer watched")
        finally:
            self._unwatch()

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next_scan_at:
            return False
        return self._is_stale or now - self._scanned_at >= self._rescan_seconds or len(self._coming) > _MANY

    @property
    def _rescan_seconds(self) -> float:
        is_watched = self._is_complete and not self._catalog.is_partial
        return max(_WATCHED_SECONDS if is_watched else _UNWATCHED_SECONDS, _RESCAN_SHARE * self._scan_seconds)

    @property
    def _working_seconds(self) -> float:
        """A clock that stands still while a source is waited for in vain: that is no work, of which there would have to
        be less."""
        vain_seconds = self._asking.vain_seconds if self._asking is not None else 0.0
        return time.monotonic() - vain_seconds - self._catalog.vain_seconds

    def _wait(self) -> Changes:
        seconds = _SETTLING_SECONDS
        if not (self._is_stale or self._coming or self._catalog.unsettled()):
            seconds = max(seconds, self._scanned_at + self._rescan_seconds - time.monotonic())
        if self._told is None:
            self._stopped.wait(seconds)
            return set()
        try:
            return self._told.wait(seconds, self._stopped)
        except OSError as error:
            # Not at once: when it is a name that cannot be told, our own scan has it told again.
            log.debug("watching begins anew: %s", error)
            self._unwatch()
            self._is_stale, self._is_complete = True, False
            return set()

    def _note(self, changes: Changes) -> None:
        for kind, path in changes:
            name = os.path.basename(path)
            if name.startswith("."):
                continue
            if self._searches_alone(path) or (kind != GONE and name.lower().endswith(_WEIGHTS)):
                self._coming.add(path)
            elif self._concerns_others(path):
                self._is_stale = True
                self._are_folders_stale |= kind != MODIFIED and not name.lower().endswith(_WEIGHTS)

    def _searches_alone(self, path: str) -> Source | None:
        """The source that this file is a model of, or would be, whatever other files there are."""
        is_model = path.lower().endswith(_MODEL) and path not in self._named and printable(path) == path
        return self._folders.get(os.path.dirname(path)) if is_model and not shards_of(path) else None

    def _concerns_others(self, path: str) -> bool:
        """Whether what is there, or was, may be a folder, or be of use to a model whose file is another one."""
        folder, name = os.path.split(path)
        if self._folders.get(folder) is None or path in self._folders or name == _BLOBS or printable(path) != path:
            return True
        return name.lower().endswith(_MODEL) or may_be_part(name) or os.path.isdir(path)

    def _look_again(self) -> bool:
        """At files of which each is a model by itself; whether there were any. The others ask for a scan."""
        if time.monotonic() < self._next_look_at:
            return False
        worked_seconds = self._working_seconds
        ready = self._ready()
        files = {path: source for path in ready if (source := self._searches_alone(path)) is not None}
        self._is_stale |= len(files) < len(ready)
        self._coming -= files.keys()
        if files:
            changes = self._catalog.look_again(files)
            self._is_stale |= changes is None
            _report(changes or [])
        look_seconds = self._working_seconds - worked_seconds
        self._next_look_at = time.monotonic() + max(_PAUSE_SECONDS, _PAUSE_SHARE * look_seconds)
        return bool(files)

    def _ready(self) -> set[str]:
        """The files that came, changed or went and are no longer written."""
        if len(self._coming) > _MANY:
            return set()
        ready = self._told_of("settled", self._catalog.settled) if self._catalog.unsettled() else set()
        coming: dict[str, list[str]] = {}
        for path in self._coming:
            coming.setdefault(os.path.dirname(path), []).append(path)
        for folder, paths in coming.items():
            ready |= self._told_of(folder, partial(_no_longer_written, paths))
        return ready

    def _told_of(self, key: str, question: Callable[[], set[str]]) -> set[str]:
        """Nothing where there is no answer."""
        if self._asking is None:
            return question()
        try:
            return self._asking.ask(key, question, anew=True)
        except NoAnswerError:
            return set()

    def _scan(self) -> None:
        began_at, worked_seconds = time.monotonic(), self._working_seconds
        if self._are_folders_stale or began_at - self._scanned_at >= self._rescan_seconds:
            self._watch_folders()
        self._is_stale = self._are_folders_stale = False
        self._coming.clear()
        _report(self._catalog.refresh())
        self._scanned_at = time.monotonic()
        self._scan_seconds = self._working_seconds - worked_seconds
        self._next_scan_at = self._scanned_at + max(_PAUSE_SECONDS, _PAUSE_SHARE * self._scan_seconds)

    def _watch_folders(self) -> None:
        """Before a scan, so that what comes later is told and what came earlier is found. A folder that appears
        meanwhile could be missed, hence the second look."""
        problem = None
        for _ in range(2):
            folders, is_all = folders_of(self._catalog.sources, self._asking)
            if folders.keys() == self._folders.keys() and self._told is not None:
                self._folders = folders
                break
            self._unwatch()
            try:
                self._told = self._notify(list(folders)) if folders else None
                self._folders, problem = folders, None
            except OSError as error:
                problem = error
        if problem is not None and self._is_complete:
            log.warning("model folders are searched now and then, since they cannot be watched: %s", problem)
        self._is_complete = is_all and problem is None

    def _unwatch(self) -> None:
        if self._told is not None:
            self._told.close()
        self._told, self._folders = None, {}


def _no_longer_written(paths: Sequence[str]) -> set[str]:
    return {path for path in paths if not is_written_now(path)}


def _report(changes: Sequence[Change]) -> None:
    for change in changes:
        model = change.after or change.before
        why = f": {model.invalid}" if model and model.invalid else ""
        log.info("%s: %s%s", change.kind, printable(change.id), printable(why))


class _Walked(NamedTuple):
    path: str
    inode: tuple[int, int] | None
    num_entries: int


def folders_of(sources: Sequence[Source], asking: Asking | None = None) -> tuple[dict[str, Source | None], bool]:
    """Those in which models can appear, each once, and whether these are all: `MAX_FOLDERS` at most, and with `asking`
    none of a source that does not answer. A folder comes with its source where no other source searches it, by whatever
    path, and each file there is a model by itself."""
    found: dict[str, Source | None] = {}
    searching: dict[tuple[int, int], list[tuple[str, Source | None]]] = {}
    is_all = True
    for source in sources:
        question = partial(_folders_of, source, MAX_FOLDERS + 1 - len(found))
        try:
            folders = asking.ask(source, question) if asking else question()
        except NoAnswerError:
            is_all = False
            continue
        # Of very many entries not all are looked at, so what one file's coming means depends on the others.
        num_entries = sum(each.num_entries for each in folders)
        is_plain = isinstance(source, Folder | DataFolder) and num_entries < MAX_ENTRIES // 2
        for folder in folders:
            if len(found) >= MAX_FOLDERS:
                return found, False
            if not source.named and folder.inode:
                searching.setdefault(folder.inode, []).append((folder.path, source if is_plain else None))
            # There are no models below other names, and watchfiles takes no such name.
            if printable(folder.path) == folder.path:
                found[folder.path] = None
    found.update(each[0] for each in searching.values() if len(each) == 1 and each[0][0] in found)
    return found, is_all


def _folders_of(source: Source, limit: int) -> list[_Walked]:
    if os.path.isdir(source.place):
        walked = islice(walk(source.place, source.depth, leave_out=_BLOBS), limit)
        return [_Walked(folder, _inode(folder), 1 + len(files)) for folder, files in walked]
    folder = os.path.dirname(source.place)
    return [_Walked(folder, _inode(folder), 1)] if os.path.isfile(source.place) else []


def _inode(folder: str) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino
