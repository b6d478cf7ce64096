"""The thread that writes entries and keeps their sum within the budget, least recently used first to go.

The budget is for the whole folder, whoever wrote there. Processes do not wait for each other: two that write at once
can exceed it by what the other one is just writing.
"""

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import NamedTuple

from shimmy.worker.disk import entry
from shimmy.worker.disk.folder import File, Folder
from shimmy.worker.disk.index import is_entry
from shimmy.worker.disk.scope import Scope
from shimmy.worker.prefix_tree import Tokens

log = logging.getLogger("shimmy.worker")

# A lookup takes a microsecond for each entry of its scope.
MAX_ENTRIES = 1024
# What may wait to be written; more is dropped. One state may be larger, when nothing else waits.
MAX_PENDING_BYTES = 256 << 20


class Offer(NamedTuple):
    """`covered` are the names of entries that are not needed beside this one."""

    name: str
    tokens: "Tokens[int]"
    scope: Scope
    state: bytes
    covered: list[str]


class Writer:
    """`accepts` and `put` are one thread's, the rest is the writer thread's."""

    def __init__(self, folder: Folder, budget_bytes: int, note: Callable[[Exception], None]) -> None:
        """`note` takes what went wrong."""
        self._folder = folder
        self._budget_bytes = budget_bytes
        self._note = note
        self._queue: SimpleQueue[Offer | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        # Each has one thread that changes it, so neither needs a lock.
        self._put_bytes = 0
        self._done_bytes = 0
        self._waiting: dict[str, tuple[bytes, Tokens[int]]] = {}

    def accepts(self, name: str, scope: Scope, num_tokens: int, state_bytes: int) -> bool:
        pending = self._put_bytes - self._done_bytes
        fits = entry.size_of(scope, num_tokens, state_bytes) <= self._budget_bytes
        return fits and name not in self._waiting and (not pending or pending + state_bytes <= MAX_PENDING_BYTES)

    def waiting(self, scope: Scope) -> "dict[str, Tokens[int]]":
        """What will be stored soon in this scope, by name."""
        # The writer thread takes names out, so that only a copy, which is made at once, can be looked through.
        return {name: tokens for name, (its, tokens) in self._waiting.copy().items() if its == scope.id}

    def put(self, offer: Offer) -> None:
        self._waiting[offer.name] = offer.scope.id, offer.tokens
        self._put_bytes += len(offer.state)
        self._queue.put(offer)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="disk tier", daemon=True)
            self._thread.start()

    def close(self, timeout_seconds: float) -> None:
        """Waits for what has been put, but not longer than that. Nothing may be put afterwards."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            self._folder.sweep()
        except OSError:
            pass
        while self._take():
            pass

    def _take(self) -> bool:
        """Writes the next one. In a function of its own, because its end lets go of the state."""
        offer = self._queue.get()
        if offer is None:
            return False
        try:
            self._store(offer)
        except (OSError, MemoryError, ImportError) as error:
            self._note(error)
        except Exception:
            log.exception("the disk tier could not write")
        self._waiting.pop(offer.name, None)
        self._done_bytes += len(offer.state)
        return True

    def _store(self, offer: Offer) -> None:
        self._make_room(entry.size_of(offer.scope, len(offer.tokens), len(offer.state)))
        try:
            self._write(offer)
        except FileNotFoundError:
            # The folder was removed meanwhile.
            self._write(offer)
        for name in offer.covered:
            self._folder.remove(name)

    def _write(self, offer: Offer) -> None:
        self._folder.write(offer.name, entry.write(offer.scope, offer.tokens, offer.state))

    def _make_room(self, size: int) -> None:
        files = self._folder.files()
        entries = sorted((file for file in files if is_entry(file.name)), key=_used_at)
        # What others are writing counts, but only entries go.
        excess = size + sum(file.size for file in files) - self._budget_bytes
        surplus = 1 + len(entries) - MAX_ENTRIES
        for file in entries:
            if excess <= 0 and surplus <= 0:
                break
            self._folder.remove(file.name)
            excess, surplus = excess - file.size, surplus - 1


def _used_at(file: File) -> int:
    return file.used_at
