"""Keeps the catalogue up to date while a server runs: owns the thread that waits for changes in the model folders, and
decides when it is time to scan. It knows no model and changes nothing itself.

Scans have at most a quarter of that thread's time, however much happens in the folders. What the system does not tell
(network mounts, folders that appear) the slow rescan finds, and sooner whoever asks for the listing.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from shimmy.models.catalog import Catalog
from shimmy.models.discovery import Source
from shimmy.models.folders import walk
from shimmy.models.names import printable
from shimmy.models.notifications import GONE, MODIFIED, Changes, Notifications
from shimmy.models.scan import is_written_now

MAX_FOLDERS = 4096
# Between the end of one scan and the next: at least, and as a multiple of what scans take.
_PAUSE_SECONDS = 0.2
_PAUSE_SHARE = 3
# The slow rescan, where all is watched and where something is not.
_WATCHED_SECONDS = 10.0
_UNWATCHED_SECONDS = 2.0
_RESCAN_SHARE = 100
# How often files that are being written are looked at, and after how much of it a wait ends in any case.
_SETTLING_SECONDS = 0.2
# Of so many files that come at once not each is looked at before the next scan.
_MANY = 1000
_WEIGHTS = (".gguf", ".safetensors")
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
        self._told: Told | None = None
        self._folders: list[str] = []
        self._is_complete = True
        # Whether there may be something new, and whether there may be other folders.
        self._is_stale = self._are_folders_stale = True
        # Models' files that came or changed: a scan is of use when one of them is no longer written.
        self._coming: set[str] = set()
        self._scanned_at = float("-inf")
        self._scan_seconds = 0.0

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
                else:
                    self._note(self._wait())
        except Exception:
            log.exception("the model folders are no longer watched")
        finally:
            self._unwatch()

    def _is_due(self) -> bool:
        since = time.monotonic() - self._scanned_at
        if since < max(_PAUSE_SECONDS, _PAUSE_SHARE * self._scan_seconds):
            return False
        if self._is_stale or since >= self._rescan_seconds or len(self._coming) > _MANY:
            return True
        return not all(map(is_written_now, self._coming)) or self._catalog.has_settled()

    @property
    def _rescan_seconds(self) -> float:
        return max(_WATCHED_SECONDS if self._is_complete else _UNWATCHED_SECONDS, _RESCAN_SHARE * self._scan_seconds)

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
            if kind != GONE and name.lower().endswith(_WEIGHTS):
                self._coming.add(path)
            else:
                self._is_stale = True
                self._are_folders_stale |= kind != MODIFIED and not name.lower().endswith(_WEIGHTS)

    def _scan(self) -> None:
        began_at = time.monotonic()
        if self._are_folders_stale or began_at - self._scanned_at >= self._rescan_seconds:
            self._watch_folders()
        self._is_stale = self._are_folders_stale = False
        self._coming.clear()
        for change in self._catalog.refresh():
            model = change.after or change.before
            why = f": {model.invalid}" if model and model.invalid else ""
            log.info("%s: %s%s", change.kind, printable(change.id), printable(why))
        self._scanned_at = time.monotonic()
        self._scan_seconds = self._scanned_at - began_at

    def _watch_folders(self) -> None:
        """Before a scan, so that what comes later is told and what came earlier is found. A folder that appears
        meanwhile could be missed, hence the second look."""
        problem = None
        for _ in range(2):
            folders, is_all = folders_of(self._catalog.sources)
            if folders == self._folders and self._told is not None:
                break
            self._unwatch()
            try:
                self._told = self._notify(folders) if folders else None
                self._folders, problem = folders, None
            except OSError as error:
                problem = error
        if problem is not None and self._is_complete:
            log.warning("model folders are searched now and then, since they cannot be watched: %s", problem)
        self._is_complete = is_all and problem is None

    def _unwatch(self) -> None:
        if self._told is not None:
            self._told.close()
        self._told, self._folders = None, []


def folders_of(sources: Sequence[Source]) -> tuple[list[str], bool]:
    """Those in which models can appear, each once, and whether these are all: `MAX_FOLDERS` at most."""
    found: dict[str, None] = {}
    for source in sources:
        for folder in _folders_of(source):
            if len(found) >= MAX_FOLDERS:
                return list(found), False
            # There are no models below other names, and watchfiles takes no such name.
            if printable(folder) == folder:
                found[folder] = None
    return list(found), True


def _folders_of(source: Source) -> Iterator[str]:
    if os.path.isdir(source.place):
        yield from (folder for folder, _ in walk(source.place, source.depth, leave_out=_BLOBS))
    elif os.path.isfile(source.place):
        yield os.path.dirname(source.place)
