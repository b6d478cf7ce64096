"""One scan of all sources, or a look at a few files. Reads headers, of files that no scan has seen as they are; knows
nothing of who asks.

What is still being written is not taken for a model: a file that appears or changes counts once it has been the same
for `SETTLED_SECONDS`, by its own time or by ours. Of what the first scan finds nobody knows what it was before, so that
scan takes everything as it is.
"""

import os
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from shimmy.models.asking import Asking, NoAnswerError
from shimmy.models.discovery import Source
from shimmy.models.facts import Inspection, inspect
from shimmy.models.folders import Found, as_models
from shimmy.models.listing import FileKey, Identity, Listing, Model, Sighting, Skipped, file_key
from shimmy.models.names import normalized, qualified

SETTLED_SECONDS = 0.7
# Of the time that a source has for an answer: so long headers are read for one.
_READING_SHARE = 0.25

_Seen = tuple[Found, Sighting]


class _Link(NamedTuple):
    """What else leads to a file that was found before, in whichever order they were."""

    source: Source
    found: Found
    file: FileKey
    identity: Identity


def scan(
    sources: Iterable[Source],
    before: Listing | None,
    cached: Mapping[Sighting, Inspection],
    asking: Asking | None = None,
) -> Listing:
    """Blocking: walks folders, and reads the headers of files that neither `before` nor `cached` has as they are. With
    `asking` a source that does not answer is not waited for."""
    work = _Scan(before, cached)
    for source in sources:
        question = partial(_seen_in, source)
        try:
            seen = asking.ask(source, question) if asking else question()
            if asking:
                work.read_ahead(source, seen, asking)
        except NoAnswerError:
            work.keep(source)
            continue
        for found, sighting in seen:
            work.add(source, found, sighting)
    return work.finished()


def _seen_in(source: Source) -> list[_Seen]:
    return [_observed(found) for found in source.find()]


def look_again(
    before: Listing, files: Mapping[str, Source], asking: Asking | None = None
) -> tuple[Listing, set[str]] | None:
    """What `scan` would find if only these files have come, changed or gone since `before`, and the ids of models that
    this concerns. Each is a `.gguf` file, no shard, in a folder that no source but its own searches. None where only a
    scan can tell, as the order in which files are found decides, or a source does not answer. Blocking: looks at these
    files only, and reads their headers where `scan` would."""
    others = before.without(files.keys())
    if others is None:
        return None
    work = _Scan(before, {}, others)
    for source in dict.fromkeys(files.values()):
        question = partial(_seen_at, sorted(path for path in files if files[path] == source))
        try:
            seen = asking.ask((source, "files"), question, anew=True) if asking else question()
            if asking and seen is not None:
                work.read_ahead(source, seen, asking)
        except NoAnswerError:
            return None
        if seen is None:
            return None
        for found, sighting in seen:
            work.add(source, found, sighting)
    listing = work.finished()
    if work.is_contested:
        return None
    ids = {found.id_of_path[path] for found in (before, listing) for path in files if path in found.id_of_path}
    return listing, ids


def _seen_at(paths: list[str]) -> list[_Seen] | None:
    """None where one of them has become a folder."""
    if any(map(os.path.isdir, paths)):
        return None
    return [_observed(found) for path in filter(os.path.isfile, paths) for found in as_models([path])]


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


def settled(listing: Listing) -> set[str]:
    """The files that another scan would take for what they are now."""
    over = (sighting for sighting, since in listing.unsettled.items() if _is_over(sighting, since))
    return {path for sighting in over for path in sighting.paths}


def _is_over(sighting: Sighting, since: float) -> bool:
    try:
        now = observe(sighting.paths)
    except OSError:
        return True
    return not _is_new(now, time.time_ns()) or (now == sighting and time.monotonic() - since >= SETTLED_SECONDS)


def _is_new(sighting: Sighting, now_ns: int) -> bool:
    """By its own time, which may be that of another machine."""
    return max((mtime_ns for *_, mtime_ns in sighting.identity), default=0) > now_ns - SETTLED_SECONDS * 1e9


def _read_some(unread: Mapping[Identity, tuple[str, ...]], seconds: float) -> dict[Identity, Inspection]:
    """One at least, then others until the time is over."""
    stops_at = time.monotonic() + seconds
    read: dict[Identity, Inspection] = {}
    for identity, paths in unread.items():
        read[identity] = inspect(paths)
        if time.monotonic() >= stops_at:
            break
    return read


class _Scan:
    """Adds to `listing` what is found. `is_contested` when it has mattered for that in which order it was found."""

    def __init__(
        self, before: Listing | None, cached: Mapping[Sighting, Inspection], listing: Listing | None = None
    ) -> None:
        self.listing = listing or Listing()
        self.is_contested = False
        self._led: list[str] = []
        # What leads to files that were found before.
        self._links: list[_Link] = []
        # What was read ahead.
        self._fresh: dict[Identity, Inspection] = {}
        self._is_first = before is None
        self._before = before or Listing()
        self._cached = cached
        self._began_at = time.monotonic()
        self._began_ns = time.time_ns()

    def read_ahead(self, source: Source, seen: list[_Seen], asking: Asking) -> None:
        """The headers that `add` will want. Raises `NoAnswerError` when one takes too long, and keeps those before."""
        while unread := self._unread(seen):
            question = partial(_read_some, unread, _READING_SHARE * asking.seconds)
            try:
                # What comes late may be of others.
                self._fresh.update(asking.ask((source, "headers"), question))
            except NoAnswerError:
                self._remember(seen)
                raise

    def _unread(self, seen: list[_Seen]) -> dict[Identity, tuple[str, ...]]:
        return {
            sighting.identity: found.paths
            for found, sighting in seen
            if not (found.reason or self._known(sighting))
            and (self._is_first or not self._seems_written(found, sighting))
        }

    def _known(self, sighting: Sighting) -> Inspection | None:
        return self._earlier(sighting) or self._fresh.get(sighting.identity)

    def _earlier(self, sighting: Sighting) -> Inspection | None:
        return self._before.inspections.get(sighting.identity) or self._cached.get(sighting)

    def _remember(self, seen: list[_Seen]) -> None:
        """What was read ahead, for the next scan, though none of it is listed yet."""
        for _, sighting in seen:
            fresh = self._fresh.get(sighting.identity)
            if fresh is not None and fresh.lasting and not self._may_be_written(sighting):
                self.listing.inspections[sighting.identity] = fresh
                self.listing.read.append((sighting, fresh))

    def add(self, source: Source, found: Found, sighting: Sighting) -> None:
        file = None if found.reason else file_key(sighting.identity, found.own)
        if file in self.listing.id_of_file:
            id = self.listing.id_of_file[file]
            self._contest(id, *found.paths)
            self._lead(found.name, id)
            self._links.append(_Link(source, found, file, sighting.identity))
        elif (entry := self._entry(source, found, sighting)) is not None:
            id = self._enter(source, found, entry)
            if file:
                self.listing.id_of_file[file] = id
        else:
            return
        for alias in found.aliases:
            self._lead(alias, id)

    def keep(self, source: Source) -> None:
        """What was known of it, and all headers that were: some may be of files that are not listed yet."""
        self.listing.silent += (source,)
        self.listing.inspections |= self._before.inspections
        for id in [each for each, its_source in self._before.source_of.items() if its_source is source]:
            model = self._before.models[id]
            file = file_key(model.identity, model.own)
            if id in self.listing.models or file in self.listing.id_of_file:
                self._contest(id)
                continue
            self._list(source, model)
            if file:
                self.listing.id_of_file[file] = id
            for name in self._before.names_of[id]:
                self._lead(name, id)

    def finished(self) -> Listing:
        """Of names that are spelled alike the first leads to its model."""
        self._links = list(map(self._with_id_kept, self._links))
        for source, found, file, _ in self._links:
            id = self.listing.id_of_file[file]
            name = found.name if self.listing.id_of_name[found.name] == id else None
            self.listing.skipped.append(Skipped(source.label, found.paths, f"the same file as {id}", name))
        self.listing.skipped.sort(key=lambda each: each.paths)
        for name in self._led:
            id = self.listing.id_of_name[name]
            if (first := self.listing.id_of_spelling.setdefault(normalized(name), id)) != id:
                self._contest(first, id)
        return self.listing

    def _with_id_kept(self, link: _Link) -> _Link:
        """What is no more than a link, once the model has the id again that it had: it may be loaded by that, and a new
        name of its file is no reason to load it anew."""
        file, id, name = link.file, self.listing.id_of_file[link.file], link.found.name
        if self._before.id_of_file.get(file) != name or self.listing.id_of_name[name] != id:
            return link
        model, source = self.listing.models[id], self.listing.source_of[id]
        if name == id or model.identity != link.identity:
            return link
        self.listing.rename(id, name, link.source, link.found.paths)
        self._contest(name, *model.paths)
        return _Link(source, Found(id, model.paths), file, link.identity)

    def _lead(self, name: str, id: str) -> None:
        """If the name leads nowhere yet."""
        first = self.listing.id_of_name.get(name)
        if first is None:
            self.listing.id_of_name[name] = id
            self.listing.names_of.setdefault(id, []).append(name)
            self._led.append(name)
        elif first != id:
            self._contest(first, id)

    def _contest(self, *ids_and_paths: str) -> None:
        self.is_contested = True
        self.listing.contested.update(ids_and_paths)

    def _entry(self, source: Source, found: Found, sighting: Sighting) -> Model | None:
        """What is to be said of a file; None when it is not to be listed."""
        if self._seems_written(found, sighting):
            self.listing.unsettled[sighting] = self._before.unsettled.get(sighting, self._began_at)
            if not self._is_first:
                # Of a model in several files one may be new.
                listed = self._before.id_of_path
                known = next((listed[path] for path in found.paths if path in listed), None)
                if known is None:
                    self._skip(source, found, "it is still being written")
                    return None
                return self._before.models[known]
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
            identity=sighting.identity,
            facts=inspection.facts,
            invalid=inspection.invalid,
        )

    def _seems_written(self, found: Found, sighting: Sighting) -> bool:
        return not found.reason and not found.is_whole and self._may_be_written(sighting)

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
        inspection = self._earlier(sighting)
        if inspection is None:
            inspection = self._fresh.get(sighting.identity) or inspect(found.paths)
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
        self._lead(found.name, id)
        self._list(source, msgspec.structs.replace(entry, id=id, source=source.label, own=found.own))
        self.listing.id_of_name[id] = id
        self._lead(own_name, id)
        return id

    def _list(self, source: Source, model: Model) -> None:
        for path in model.paths:
            # Of one file there may be several models, with other things beside it.
            if path in self.listing.id_of_path:
                self._contest(self.listing.id_of_path[path], model.id, *model.paths)
        self.listing.models[model.id] = model
        self.listing.source_of[model.id] = source
        self.listing.id_of_path.update(dict.fromkeys(model.paths, model.id))

    def _skip(self, source: Source, found: Found, reason: str) -> None:
        self.listing.skipped.append(Skipped(source.label, found.paths, reason))


def _observed(found: Found) -> tuple[Found, Sighting]:
    """With the reason, if it cannot be looked at."""
    try:
        # What was loaded with an adapter is of no use for another one.
        return found, observe((*found.paths, *found.own.adapters))
    except OSError as error:
        reason = found.reason or f"cannot be read: {error.strerror}"
        return Found(found.name, found.paths, reason), Sighting(found.paths, (), ())
