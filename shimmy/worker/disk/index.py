"""Which entries there are and for which tokens: read from the folder once, and again what is new when it has changed.

Token ids take a few thousandths of what the states take that the folder has room for.
"""

import logging
import math
import os
import re
import time
from collections import OrderedDict, defaultdict
from collections.abc import Mapping

from shimmy.worker.disk import entry
from shimmy.worker.disk.folder import Folder
from shimmy.worker.disk.scope import Scope
from shimmy.worker.prefix_tree import Tokens

log = logging.getLogger("shimmy.worker")

_ENTRY = re.compile(r"([0-9a-f]{16})-[0-9a-f]{32}\.kv")
# The coarsest clock of a common file system. A folder that changed so recently may change again without showing it:
# it is then listed now and then.
_CLOCK_NANOSECONDS = 2_000_000_000
_LIST_AGAIN_SECONDS = 0.05
# Computing less than this is as fast as reading it, so that entries that part earlier need not be looked at.
MIN_TOKENS = 64
# Each client may bring a key of its own.
_MAX_SCOPES = 256


def is_entry(name: str) -> bool:
    return _ENTRY.fullmatch(name) is not None


class Index:
    """For one thread. Raises `OSError` when the folder cannot be read."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._names: Mapping[str, frozenset[str]] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._list_again_at = math.inf
        self._shelves: OrderedDict[bytes, _Shelf] = OrderedDict()

    def entries(self, scope: Scope, start: "Tokens[int]") -> "dict[str, Tokens[int]]":
        """The entries of the scope whose first `MIN_TOKENS` tokens are those of `start`, by name.

        What has changed lately may not show yet.
        """
        names = self._listed().get(scope.tag, frozenset())
        shelf = self._shelves.get(scope.id, _Shelf({}))
        if shelf.entries.keys() != names:
            known = shelf.entries
            read = ((name, known.get(name) or self._read(name, scope)) for name in names)
            shelf = _Shelf({name: tokens for name, tokens in read if tokens})
        self._shelves[scope.id] = shelf
        self._shelves.move_to_end(scope.id)
        if len(self._shelves) > _MAX_SCOPES:
            self._shelves.popitem(last=False)
        return shelf.by_start.get(_start(start), {})

    def drop(self, name: str, reason: Exception) -> None:
        """Removes a damaged entry, where that is possible."""
        try:
            self._folder.remove(name)
        except OSError:
            return
        log.warning("%s was damaged and has been removed: %s", self._folder.path / name, reason)

    def _listed(self) -> Mapping[str, frozenset[str]]:
        """The names of all entries by the tag that they begin with."""
        # Taken before the names, so that what comes in between is seen next time.
        stamp, now = self._folder.stamp(), time.monotonic()
        if stamp != self._stamp or now >= self._list_again_at:
            names: defaultdict[str, list[str]] = defaultdict(list)
            for match in filter(None, map(_ENTRY.fullmatch, self._folder.names())):
                names[match[1]].append(match[0])
            self._names = {tag: frozenset(found) for tag, found in names.items()}
            settled = stamp is None or time.time_ns() - stamp[2] > _CLOCK_NANOSECONDS
            self._stamp, self._list_again_at = stamp, math.inf if settled else now + _LIST_AGAIN_SECONDS
        return self._names

    def _read(self, name: str, scope: Scope) -> "Tokens[int] | None":
        """None where it cannot be read, or is not what its name promises."""
        try:
            with self._folder.reading(name) as file:
                tokens = entry.read_tokens(file, os.fstat(file.fileno()).st_size, scope)
            if scope.name(tokens) == name:
                return tokens
            self.drop(name, entry.Damaged("its name is that of another"))
        except entry.Damaged as error:
            self.drop(name, error)
        except (OSError, ImportError):
            pass
        return None


class _Shelf:
    """The entries of one scope."""

    def __init__(self, entries: "dict[str, Tokens[int]]") -> None:
        self.entries = entries
        self.by_start: defaultdict[bytes, dict[str, Tokens[int]]] = defaultdict(dict)
        for name, tokens in entries.items():
            self.by_start[_start(tokens)][name] = tokens


def _start(tokens: "Tokens[int]") -> bytes:
    return tokens[:MIN_TOKENS].tobytes()
