"""One scan of all sources, turned into models with distinct ids, and the names that lead to them."""

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

import msgspec

from shimmy.models.discovery import Source
from shimmy.models.facts import Facts, Inspection, inspect
from shimmy.models.folders import Found
from shimmy.models.names import normalized, qualified, with_default_tag, without_default_tag

Identity = tuple[tuple[int, int, int, int], ...]


class Model(msgspec.Struct, frozen=True):
    """One entry. `identity` is (device, inode, size, mtime_ns) per path; `invalid` says why it cannot be served."""

    id: str
    paths: tuple[str, ...]
    size_bytes: int
    modified_unix: float
    source: str
    identity: Identity
    facts: Facts | None
    invalid: str | None


class Change(msgspec.Struct, frozen=True):
    """What became of one id between two scans: `before` is None for a model that came, `after` for one that went."""

    id: str
    before: Model | None
    after: Model | None

    @property
    def kind(self) -> Literal["added", "changed", "removed"]:
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


class Listing:
    """Built once by `scan`, read-only after that. A file found twice is one entry that has both names."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.inspections: dict[Identity, Inspection] = {}
        self._id_of_name: dict[str, str] = {}
        self._id_of_file: dict[tuple[int, int], str] = {}

    def find(self, name: str) -> Model | None:
        """Exactly, then whatever the spelling; `name` also means `name:latest`, and the other way round."""
        for wanted in (name, with_default_tag(name), without_default_tag(name)):
            found = self._id_of_name.get(wanted) or self._spelled_otherwise(normalized(wanted))
            if found:
                return self.models[found]
        return None

    def _spelled_otherwise(self, wanted: str) -> str | None:
        return next((found for name, found in self._id_of_name.items() if normalized(name) == wanted), None)

    def add(self, source: Source, found: Found, known: Mapping[Identity, Inspection]) -> None:
        """`known` are inspections of an earlier scan, valid for files that are still the same."""
        found, identity = _identify(found)
        file = identity[0][:2] if identity and not found.reason else None
        if file in self._id_of_file:
            self._id_of_name.setdefault(found.name, self._id_of_file[file])
            return
        inspection = self._inspect(found, identity, known)
        if inspection.kind == "model" or source.named:
            model_id = self._enter(source, found, identity, inspection)
            if file:
                self._id_of_file[file] = model_id

    def _inspect(self, found: Found, identity: Identity, known: Mapping[Identity, Inspection]) -> Inspection:
        if found.reason:
            return Inspection("model", None, found.reason)
        inspection = known.get(identity) or inspect(found.paths)
        if inspection.lasting:
            self.inspections[identity] = inspection
        return inspection

    def _enter(self, source: Source, found: Found, identity: Identity, inspection: Inspection) -> str:
        own_name = qualified(found.name, found.paths[0] if found.paths else os.path.join(source.place, found.name))
        model = Model(
            id=own_name if found.name in self.models else found.name,
            paths=found.paths,
            size_bytes=sum(size for _, _, size, _ in identity),
            modified_unix=max((mtime_ns for *_, mtime_ns in identity), default=0) / 1e9,
            source=source.label,
            identity=identity,
            facts=inspection.facts,
            invalid=inspection.invalid,
        )
        self.models[model.id] = model
        self._id_of_name[model.id] = model.id
        self._id_of_name.setdefault(own_name, model.id)
        return model.id


def scan(sources: Iterable[Source], known: Mapping[Identity, Inspection]) -> Listing:
    """Blocking: walks folders and reads the headers that `known` does not cover."""
    listing = Listing()
    for source in sources:
        for found in source.find():
            listing.add(source, found, known)
    return listing


def changes(before: Listing, after: Listing) -> Iterator[Change]:
    """What goes first, so that a listener who makes room does it before it fills it."""
    for id, model in before.models.items():
        if id not in after.models:
            yield Change(id, model, None)
    for id, model in after.models.items():
        known = before.models.get(id)
        if known is None or _stamp(known) != _stamp(model):
            yield Change(id, known, model)


def _stamp(model: Model) -> tuple[object, ...]:
    """What of a model makes it another one when it is different. Where it was found does not."""
    return model.paths, model.identity, model.invalid


def _identify(found: Found) -> tuple[Found, Identity]:
    try:
        statuses = [os.stat(path) for path in found.paths]
    except OSError as error:
        return Found(found.name, found.paths, found.reason or f"cannot be read: {error.strerror}"), ()
    return found, tuple((each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in statuses)
