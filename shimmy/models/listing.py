"""What one scan found: models with distinct ids, the names that lead to them, and what differs from the scan before.
Only data: reads no files.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

from shimmy.core.modelfile import NOTHING, Layer, Own
from shimmy.models.facts import Facts, Inspection
from shimmy.models.names import normalized, with_default_tag, without_default_tag

Identity = tuple[tuple[int, int, int, int], ...]


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
    """A file that looks like a model, is not listed, and why."""

    source: str
    paths: tuple[str, ...]
    reason: str


class Listing:
    """Filled by one scan, read-only after that. A file found twice is one entry that has both names, unless different
    things come with it.

    `inspections` are of all that was found, `read` those for which this scan had to read headers. `unsettled` are files
    that may still be written, each with when it was first seen as it is (monotonic); what is listed of such a file is
    what was known of it before.
    """

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.inspections: dict[Identity, Inspection] = {}
        self.read: list[tuple[Sighting, Inspection]] = []
        self.unsettled: dict[Sighting, float] = {}
        self.skipped: list[Skipped] = []
        self.id_of_name: dict[str, str] = {}
        self.id_of_spelling: dict[str, str] = {}
        self.id_of_file: dict[tuple[tuple[int, int], tuple[Layer, ...]], str] = {}

    def find(self, name: str) -> Model | None:
        """Exactly, then whatever the spelling; `name` also means `name:latest`, and the other way round."""
        for wanted in (name, with_default_tag(name), without_default_tag(name)):
            found = self.id_of_name.get(wanted) or self.id_of_spelling.get(normalized(wanted))
            if found:
                return self.models[found]
        return None


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
    return model.paths, model.identity, model.invalid, model.own.layers
