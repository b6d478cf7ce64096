"""How long it takes until a server lists a model whose file has just become whole, and until it lists one no more whose
file has gone: owns the files that come and go meanwhile in a folder of many others. Part of `bench.catalogue`.
"""

import os
import queue
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import msgspec

from bench.measure import rival
from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from shimmy.models.listing import Change
from shimmy.models.watch import Watch
from tests.fakes.gguf_writer import model

Kind = Literal["moved", "copied", "removed"]
_LIMIT_SECONDS = 60.0
_WRITES = 5
_WRITE_PAUSE_SECONDS = 0.2


class Arrival(msgspec.Struct, frozen=True):
    """`seconds` from a rename into the folder, from the last write of a slow copy, or from the removal, until the
    catalogue said so; `models` others were there, and if it `is_contended` a process kept one core busy."""

    kind: Kind
    models: int
    is_contended: bool
    seconds: float

    @property
    def figure(self) -> str:
        return f"{self.kind} among {self.models}{' contended' if self.is_contended else ''}"


def arrivals(folder: Path, count: int, times: int) -> list[Arrival]:
    """`count` models are in `folder` already. Ends the program for one that does not come."""
    seen: queue.SimpleQueue[tuple[float, Change]] = queue.SimpleQueue()
    catalog = Catalog([Folder("models folder", str(folder))])
    catalog.refresh()
    catalog.on_change = lambda change: seen.put((time.monotonic(), change))
    watch = Watch(catalog)
    watch.start()
    found = []
    try:
        # The watch begins with a scan; what comes before its end would be found by that.
        _listed(seen, _copied(folder / "first.gguf"), "added")
        _listed(seen, _removed(folder / "first.gguf"), "removed")
        for is_busy in (False, True):
            with rival() if is_busy else nullcontext():
                for _ in range(times):
                    for kind, seconds in _one_of_each(folder, seen):
                        found.append(Arrival(kind, count, is_busy, seconds))
    finally:
        watch.stop()
    return found


def _one_of_each(folder: Path, seen: queue.SimpleQueue[tuple[float, Change]]) -> Iterator[tuple[Kind, float]]:
    moved, copied = folder / "moved.gguf", folder / "copied.gguf"
    yield "moved", _listed(seen, _moved(moved), "added")
    yield "copied", _listed(seen, _copied(copied), "added")
    for path in (moved, copied):
        yield "removed", _listed(seen, _removed(path), "removed")


def _moved(path: Path) -> float:
    """When it was whole: it has been for long, and gets its name."""
    fresh = model(path.stem).write(path.with_suffix(".part"))
    os.utime(fresh, (1000, 1000))
    fresh.rename(path)
    return time.monotonic()


def _copied(path: Path) -> float:
    """When the last of a few writes began, which makes it whole."""
    content = model(path.stem).encode()
    size = len(content) // _WRITES + 1
    with open(path, "wb", buffering=0) as file:
        for start in range(0, len(content), size):
            time.sleep(_WRITE_PAUSE_SECONDS)
            last_at = time.monotonic()
            file.write(content[start : start + size])
    return last_at


def _removed(path: Path) -> float:
    path.unlink()
    return time.monotonic()


def _listed(seen: queue.SimpleQueue[tuple[float, Change]], since: float, kind: str) -> float:
    """How long after `since` the next change came, which has to be of this kind and of a sound model."""
    try:
        at, change = seen.get(timeout=_LIMIT_SECONDS)
    except queue.Empty:
        sys.exit(f"bench: no model was {kind} within {_LIMIT_SECONDS:.0f} s")
    if change.kind != kind or (change.after and change.after.invalid):
        sys.exit(f"bench: {change.id} was {change.kind}, not {kind} and sound")
    return at - since
