"""What one scan found: models with distinct ids, the names that lead to them, and what differs from the scan before.
Only data: reads no files.
"""

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, Literal

import msgspec

from shimmy.core.modelfile import NOTHING, Layer, Own
from shimmy.models.facts import Facts, Inspection
from shimmy.models.names import normalized, with_default_tag, without_default_tag

if TYPE_CHECKING:
    from shimmy.models.discovery import Source

Identity = tuple[tuple[int, int, int, int], ...]


# Which file it is, and what comes with it.
FileKey = tuple[tuple[int, int], tuple[Layer, ...]]


class Model(msgspec.Struct, frozen=True):
    """One entry. `identity` is (device, inode, size, mtime_ns) per path, and of its own adapters after that; `invalid`
    says why it cannot be served, and `own` what comes with it beside its weights."""

    id: str
    paths: tuple[str, ...]
    size_bytes: int
    modified_unix: float
    source: str
    identity: Identity
    facts: Facts | None
    invalid: str | None
    own: Own = NOTHING

    @property
    def version(self) -> tuple[object, ...]:
        """What tells it from the same model as it was, for whoever has that loaded."""
        return self.identity, self.own.context_length


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


class Sighting(msgspec.Struct, frozen=True):
    """A file, or all shards of one, as a scan saw it. `changed_ns` is when each was last touched in any way (ctime): it
    is no part of the identity, since a link or a new name changes it as well."""

    paths: tuple[str, ...]
    identity: Identity
    changed_ns: tuple[int, ...]


class Skipped(msgspec.Struct, frozen=True):
    """A file that looks like a model, is not listed, and why. One that is listed already gives its model a further
    `name`, unless that leads to another."""

    source: str
    paths: tuple[str, ...]
    reason: str
    name: str | None = None


_INDEXES = "models inspections id_of_name id_of_spelling id_of_file id_of_path names_of source_of".split()


class Listing:
    """Filled by one scan, read-only after that. A file found twice is one entry that has both names, unless different
    things come with it.

    `inspections` are of all that was found, `read` those for which this scan had to read headers. `unsettled` are files
    that may still be written, each with when it was first seen as it is (monotonic); what is listed of such a file is
    what was known of it before. `contested` are the ids, and the paths of files that were found twice, for which it
    mattered in which order they were found. `silent` are the sources that did not answer: what was known of them stays.
    """

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.inspections: dict[Identity, Inspection] = {}
        self.read: list[tuple[Sighting, Inspection]] = []
        self.unsettled: dict[Sighting, float] = {}
        self.skipped: list[Skipped] = []
        self.id_of_name: dict[str, str] = {}
        self.id_of_spelling: dict[str, str] = {}
        self.id_of_file: dict[FileKey, str] = {}
        self.id_of_path: dict[str, str] = {}
        self.names_of: dict[str, list[str]] = {}
        self.source_of: dict[str, Source] = {}
        self.silent: tuple[Source, ...] = ()
        self.contested: set[str] = set()

    def find(self, name: str) -> Model | None:
        """Exactly, then whatever the spelling; `name` also means `name:latest`, and the other way round."""
        for wanted in (name, with_default_tag(name), without_default_tag(name)):
            found = self.id_of_name.get(wanted) or self.id_of_spelling.get(normalized(wanted))
            if found:
                return self.models[found]
        return None

    def without(self, paths: Set[str]) -> "Listing | None":
        """A copy that has nothing of these files; None where what is listed of others depends on them. It takes little
        time however many others there are."""
        gone = {self.id_of_path[path] for path in paths if path in self.id_of_path}
        if not self.contested.isdisjoint(gone | paths):
            return None
        rest = Listing()
        for index in _INDEXES:
            setattr(rest, index, getattr(self, index).copy())
        for id in gone:
            rest._forget(id)
        # A model that is being replaced is that of two files.
        rest.id_of_file = {file: id for file, id in self.id_of_file.items() if id not in gone}
        rest.unsettled = {each: since for each, since in self.unsettled.items() if paths.isdisjoint(each.paths)}
        rest.skipped = [each for each in self.skipped if paths.isdisjoint(each.paths)]
        rest.contested = set(self.contested)
        rest.silent = self.silent
        return rest

    def _forget(self, id: str) -> None:
        model = self.models.pop(id)
        del self.source_of[id]
        self.inspections.pop(model.identity, None)
        for name in self.names_of.pop(id):
            del self.id_of_name[name]
            self.id_of_spelling.pop(normalized(name), None)
        for path in model.paths:
            del self.id_of_path[path]

    def rename(self, id: str, name: str, source: "Source", paths: tuple[str, ...]) -> None:
        """A model's further name becomes its id, and its id a further name; it was found at both."""
        model = self.models.pop(id)
        del self.source_of[id]
        for path in model.paths:
            if self.id_of_path.get(path) == id:
                del self.id_of_path[path]
        self.models[name] = msgspec.structs.replace(model, id=name, paths=paths, source=source.label)
        self.source_of[name] = source
        self.id_of_path.update(dict.fromkeys(paths, name))
        self.names_of[name] = self.names_of.pop(id)
        self.id_of_name.update(dict.fromkeys([id, *self.names_of[name]], name))
        self.id_of_file.update({file: name for file, known in self.id_of_file.items() if known == id})


def file_key(identity: Identity, own: Own) -> FileKey | None:
    """The same for what is one model under several names; None where there is no file."""
    return (identity[0][:2], own.layers) if identity else None


def changes(before: Listing, after: Listing, ids: Set[str] | None = None) -> Iterator[Change]:
    """What goes first, so that a listener who makes room does it before it fills it. Of `ids` only, if no others can
    have changed."""
    for id in before.models if ids is None else sorted(ids):
        if id in before.models and id not in after.models:
            yield Change(id, before.models[id], None)
    for id in after.models if ids is None else sorted(ids):
        known, model = before.models.get(id), after.models.get(id)
        if model is not None and (known is None or _stamp(known) != _stamp(model)):
            yield Change(id, known, model)


def _stamp(model: Model) -> tuple[object, ...]:
    """What of a model makes it another one when it is different. Where it was found does not."""
    return model.paths, model.identity, model.invalid, model.own.layers
