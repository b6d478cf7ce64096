"""One scan of all sources. Reads headers, of files that no scan has seen as they are; knows nothing of who asks.

What is still being written is not taken for a model: a file that appears or changes counts once it has been the same
for `SETTLED_SECONDS`, by its own time or by ours. Of what the first scan finds nobody knows what it was before, so that
scan takes everything as it is.
"""

import os
import time
from collections.abc import Iterable, Mapping

import msgspec

from shimmy.models.discovery import Source
from shimmy.models.facts import Inspection, inspect
from shimmy.models.folders import Found
from shimmy.models.listing import Identity, Listing, Model, Sighting, Skipped
from shimmy.models.names import normalized, qualified

SETTLED_SECONDS = 0.7


def scan(sources: Iterable[Source], before: Listing | None, cached: Mapping[Sighting, Inspection]) -> Listing:
    """Blocking: walks folders, and reads the headers of files that neither `before` nor `cached` has as they are."""
    work = _Scan(before, cached)
    for source in sources:
        for found in source.find():
            work.add(source, found)
    return work.finished()


def observe(paths: tuple[str, ...]) -> Sighting:
    """Raises OSError."""
    statuses = list(map(os.stat, paths))
    identity = tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in statuses)
    return Sighting(paths, identity, tuple(each.st_ctime_ns for each in statuses))


def is_written_now(path: str) -> bool:
    """By its own time, where that is of our clock: then it is too early to scan."""
    try:
        return abs(time.time_ns() - os.stat(path).st_mtime_ns) < SETTLED_SECONDS * 1e9
    except OSError:
        return False


def has_settled(listing: Listing) -> bool:
    """Whether another scan would take one of the files for what it is now."""
    return any(_is_over(sighting, since) for sighting, since in listing.unsettled.items())


def _is_over(sighting: Sighting, since: float) -> bool:
    try:
        now = observe(sighting.paths)
    except OSError:
        return True
    return not _is_new(now, time.time_ns()) or (now == sighting and time.monotonic() - since >= SETTLED_SECONDS)


def _is_new(sighting: Sighting, now_ns: int) -> bool:
    """By its own time, which may be that of another machine."""
    return max((mtime_ns for *_, mtime_ns in sighting.identity), default=0) > now_ns - SETTLED_SECONDS * 1e9


class _Scan:
    def __init__(self, before: Listing | None, cached: Mapping[Sighting, Inspection]) -> None:
        self.listing = Listing()
        self._is_first = before is None
        self._before = before or Listing()
        self._cached = cached
        self._listed_before = {path: model for model in self._before.models.values() for path in model.paths}
        self._began_at = time.monotonic()
        self._began_ns = time.time_ns()

    def add(self, source: Source, found: Found) -> None:
        found, sighting = _observed(found)
        identity = sighting.identity
        file = (identity[0][:2], found.own.layers) if identity and not found.reason else None
        if file in self.listing.id_of_file:
            id = self.listing.id_of_file[file]
            self.listing.id_of_name.setdefault(found.name, id)
            self.listing.skipped.append(Skipped(source.label, found.paths, f"the same file as {id}"))
        elif (entry := self._entry(source, found, sighting)) is not None:
            id = self._enter(source, found, entry)
            if file:
                self.listing.id_of_file[file] = id
        else:
            return
        for alias in found.aliases:
            self.listing.id_of_name.setdefault(alias, id)

    def finished(self) -> Listing:
        """Of names that are spelled alike the first leads to its model."""
        for name, id in self.listing.id_of_name.items():
            self.listing.id_of_spelling.setdefault(normalized(name), id)
        return self.listing

    def _entry(self, source: Source, found: Found, sighting: Sighting) -> Model | None:
        """What is to be said of a file; None when it is not to be listed."""
        if not found.reason and not found.is_whole and self._may_be_written(sighting):
            self.listing.unsettled[sighting] = self._before.unsettled.get(sighting, self._began_at)
            if not self._is_first:
                # Of a model in several files one may be new.
                known = next((self._listed_before[path] for path in found.paths if path in self._listed_before), None)
                if known is None:
                    self._skip(source, found, "it is still being written")
                return known
        inspection = self._inspection(found, sighting)
        if inspection.kind != "model" and not source.named:
            self._skip(source, found, inspection.invalid or inspection.kind)
            return None
        return Model(
            id=found.name,
            paths=found.paths,
            size_bytes=sum(size for _, _, size, _ in sighting.identity),
            modified_unix=max((mtime_ns for *_, mtime_ns in sighting.identity), default=0) / 1e9,
            source=source.label,
            identity=sighting.identity + _adapters_identity(found),
            facts=inspection.facts,
            invalid=inspection.invalid,
        )

    def _may_be_written(self, sighting: Sighting) -> bool:
        """No file that an earlier scan has taken for what it is now."""
        if sighting.identity in self._before.inspections:
            return False
        since = self._before.unsettled.get(sighting)
        if since is not None and self._began_at - since >= SETTLED_SECONDS:
            return False
        return _is_new(sighting, self._began_ns)

    def _inspection(self, found: Found, sighting: Sighting) -> Inspection:
        if found.reason:
            return Inspection("model", None, found.reason)
        inspection = self._before.inspections.get(sighting.identity) or self._cached.get(sighting)
        if inspection is None:
            inspection = inspect(found.paths)
            if self._lasts(inspection, sighting):
                self.listing.read.append((sighting, inspection))
        if self._lasts(inspection, sighting):
            self.listing.inspections[sighting.identity] = inspection
        return inspection

    def _lasts(self, inspection: Inspection, sighting: Sighting) -> bool:
        """A write that comes right after the last one may leave the same time behind."""
        return inspection.lasting and sighting not in self.listing.unsettled

    def _enter(self, source: Source, found: Found, entry: Model) -> str:
        own_name = qualified(found.name, found.paths[0] if found.paths else os.path.join(source.place, found.name))
        id = own_name if found.name in self.listing.models else found.name
        self.listing.models[id] = msgspec.structs.replace(entry, id=id, source=source.label, own=found.own)
        self.listing.id_of_name[id] = id
        self.listing.id_of_name.setdefault(own_name, id)
        return id

    def _skip(self, source: Source, found: Found, reason: str) -> None:
        self.listing.skipped.append(Skipped(source.label, found.paths, reason))


def _adapters_identity(found: Found) -> Identity:
    """Of a model that was loaded with other ones, nothing may be used for this one."""
    try:
        return observe(found.own.adapters).identity
    except OSError:
        return ()


def _observed(found: Found) -> tuple[Found, Sighting]:
    """With the reason, if it cannot be looked at."""
    try:
        return found, observe(found.paths)
    except OSError as error:
        reason = found.reason or f"cannot be read: {error.strerror}"
        return Found(found.name, found.paths, reason), Sighting(found.paths, (), ())
