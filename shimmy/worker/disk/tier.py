"""States in files that outlive the process: the `StateTier` below RAM. Nothing here raises because of a file: it is a
miss then.

It takes no locks and waits for no other process: files appear whole and are checked when they are read, so that any
number of workers and servers can use one folder.
"""

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NamedTuple

from shimmy.worker.disk import entry
from shimmy.worker.disk.folder import Folder, touch
from shimmy.worker.disk.index import MIN_TOKENS, Index
from shimmy.worker.disk.scope import Scope, is_private, private_namespace
from shimmy.worker.disk.writer import Offer, Writer
from shimmy.worker.prefix_states import Fetch, Hit
from shimmy.worker.prefix_tree import Tokens, common_length

log = logging.getLogger("shimmy.worker")

# The whole of a state is read for any part of it. On a CPU, reading a token takes a thirtieth of computing it.
MAX_READ_PER_GAIN = 16
# A state is stored when it saves at least this part of its tokens beyond what is there. So all that is written for a
# prompt that grows is at most 16 times its size, and of many that begin alike little more than that beginning.
MIN_NEW_PART = 1 / 16
_MAX_SCOPES = 1024


class Stored(NamedTuple):
    """A file with the state after `tokens`, which is good for the first `length` of them."""

    name: str
    scope: Scope
    tokens: "Tokens[int]"
    length: int

    @property
    def stored(self) -> int:
        return len(self.tokens)


class DiskTier:
    """For one thread; `unlock` may be called from any."""

    def __init__(
        self,
        folder: Path,
        budget_bytes: int,
        identity: bytes,
        fits: Callable[[int, int], bool],
        key: bytes | None = None,
    ) -> None:
        """`identity` (worker/disk/identity.py) says which states can be exchanged for each other, `fits(length,
        stored)` whether one of `stored` tokens can be used to go on after `length` of them (`Reuse.fits`). Entries are
        sealed with `key`, if there is one: 32 bytes, else `ValueError`.
        """
        self._folder = Folder(folder)
        self._identity = identity
        self._fits = fits
        self._key = key
        self._index = Index(self._folder)
        self._scopes: OrderedDict[str, Scope] = OrderedDict()
        self._noted: set[object] = set()
        self._writer = Writer(self._folder, budget_bytes, self._note)
        self._scope("")

    def unlock(self, namespace: str, key: bytes) -> str:
        """The namespace, in all tiers, of requests that bring a key of their own (32 bytes, else `ValueError`).

        What is stored there is sealed with it. The keys of the last 1024 such namespaces are remembered.
        """
        name = private_namespace(namespace, key)
        self._remember(name, Scope(self._identity, namespace.encode(), key))
        return name

    def match(self, tokens: "Tokens[int]", namespace: str) -> Stored | None:
        """The entry that saves most tokens and leaves at least one; of equally good ones the shortest.

        Too little is no match: fewer than `MIN_TOKENS`, or too small a part of what would have to be read.
        """
        return max(self._useful(tokens, namespace), key=lambda each: (each.length, -each.stored), default=None)

    def fetch(self, hit: Hit) -> bytes | None:
        """The state, after every check, at some 300 MB/s. None when it has gone, or is damaged and goes now."""
        return Fetch(hit, self.reading(hit)).whole()

    def reading(self, hit: Hit) -> Generator[None, None, bytes | None]:
        if not isinstance(hit, Stored):
            return None
        try:
            with self._folder.reading(hit.name) as file:
                size = os.fstat(file.fileno()).st_size
                state = yield from entry.read(file, size, hit.scope, hit.tokens)
                touch(file.fileno())
                return state
        except FileNotFoundError:
            pass
        except entry.Damaged as error:
            self._index.drop(hit.name, error)
        except (OSError, MemoryError, ImportError) as error:
            self._note(error)
        return None

    def wants(self, tokens: "Tokens[int]", namespace: str, num_bytes: int) -> bool:
        """Whether `offer` would take the state after `tokens`; asked before the state is made.

        An entry that is as good, or nearly, counts as used now.
        """
        scope = self._scope(namespace)
        if scope is None or len(tokens) < MIN_TOKENS:
            return False
        enough = math.ceil(len(tokens) * (1 - MIN_NEW_PART))
        # What waits becomes an entry meanwhile, and must not be missed in between.
        waiting = self._writer.waiting(scope).values()
        if any(self._saved(tokens, stored, len(tokens)) > enough for stored in waiting):
            return False
        for name, stored in self._entries(scope, tokens).items():
            if self._saved(tokens, stored, len(tokens)) > enough:
                self._touch(name)
                return False
        return self._writer.accepts(scope.name(tokens), scope, len(tokens), num_bytes)

    def offer(self, tokens: "Tokens[int]", namespace: str, state: bytes) -> None:
        """Has the writer thread store the state; drops it when too much waits."""
        scope = self._scope(namespace)
        if scope is None or not state or len(tokens) < MIN_TOKENS:
            return
        name = scope.name(tokens)
        if self._writer.accepts(name, scope, len(tokens), len(state)):
            # What waits is stored before this one.
            others = self._entries(scope, tokens) | self._writer.waiting(scope)
            covered = [each for each, stored in others.items() if self._covers(tokens, stored)]
            self._writer.put(Offer(name, tokens[:], scope, state, covered))

    def parting(self, tokens: "Tokens[int]", namespace: str) -> int:
        """How many of `tokens` any entry begins with; 0 for fewer than `MIN_TOKENS`."""
        scope = self._scope(namespace)
        stored = self._entries(scope, tokens).values() if scope else ()
        return max((common_length(tokens, 0, each, 0, len(tokens)) for each in stored), default=0)

    def close(self, timeout_seconds: float) -> None:
        """Waits until what was offered is stored, but not longer than that. Nothing may be offered afterwards."""
        self._writer.close(timeout_seconds)

    def _useful(self, tokens: "Tokens[int]", namespace: str) -> Iterator[Stored]:
        if (scope := self._scope(namespace)) is None:
            return
        for name, stored in self._entries(scope, tokens).items():
            if length := self._saved(tokens, stored, len(tokens) - 1):
                yield Stored(name, scope, stored, length)

    def _saved(self, tokens: "Tokens[int]", stored: "Tokens[int]", limit: int) -> int:
        """For how many of the first `limit` tokens the state after `stored` is good; 0 when that is not worthwhile."""
        length = common_length(tokens, 0, stored, 0, limit)
        return length if length >= MIN_TOKENS and self._is_worth(length, len(stored)) else 0

    def _covers(self, tokens: "Tokens[int]", stored: "Tokens[int]") -> bool:
        """Whether the state after `tokens` does all that the one after `stored`, a part of them, can do."""
        length = len(stored)
        return length < len(tokens) and stored == tokens[:length] and self._is_worth(length, len(tokens))

    def _is_worth(self, length: int, stored: int) -> bool:
        return self._fits(length, stored) and stored <= length * MAX_READ_PER_GAIN

    def _entries(self, scope: Scope, start: "Tokens[int]") -> "dict[str, Tokens[int]]":
        try:
            return self._index.entries(scope, start)
        except OSError as error:
            self._note(error)
            return {}

    def _scope(self, namespace: str) -> Scope | None:
        """None for a private namespace whose key was forgotten: it must not be taken for one without a key."""
        scope = self._scopes.get(namespace)
        if scope is None and not is_private(namespace):
            scope = Scope(self._identity, namespace.encode(), self._key)
            self._remember(namespace, scope)
        return scope

    def _remember(self, namespace: str, scope: Scope) -> None:
        self._scopes.pop(namespace, None)
        self._scopes[namespace] = scope
        if len(self._scopes) > _MAX_SCOPES:
            self._scopes.popitem(last=False)

    def _touch(self, name: str) -> None:
        try:
            with self._folder.reading(name) as file:
                touch(file.fileno())
        except OSError:
            pass

    def _note(self, error: Exception) -> None:
        """Logs each kind of trouble once: a full disk stays full for many requests."""
        kind = getattr(error, "errno", type(error))
        if kind not in self._noted:
            self._noted.add(kind)
            reason = getattr(error, "strerror", None) or error
            log.warning("states cannot be kept in %s as they should: %s", self._folder.path, reason)
