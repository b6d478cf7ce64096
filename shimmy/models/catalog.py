"""The models there are: owns the current listing. Knows files and headers, not workers.

A rescan replaces the listing as a whole, so readers on other threads see the old one or the new one. What headers said
outlasts the program where there is a `HeaderCache`.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from shimmy.core.errors import ModelInvalid, ModelNotFound

if TYPE_CHECKING:
    from shimmy.models.asking import Asking
    from shimmy.models.discovery import Source
    from shimmy.models.facts import Inspection
    from shimmy.models.listing import Change, Listing, Model, Sighting, Skipped

log = logging.getLogger("shimmy.models")

# How long a server waits for a place where models may be. What takes longer is not lost, only later.
PATIENCE_SECONDS = 5.0
# The file of headers is written as a whole, however few are new: not before so many times what the last time took.
_KEEP_SHARE = 100
_MAX_NAMES_IN_MESSAGE = 50


class Catalog:
    """Cheap to make; empty until the first `refresh`, which imports what reads files."""

    def __init__(
        self, sources: "Sequence[Source]", cache: str | None = None, patience_seconds: float | None = None
    ) -> None:
        """`cache` is the file in which what headers say is kept, if it is. With `patience_seconds` no source is waited
        for longer than that: what was known of it stays listed until it answers."""
        self.patience_seconds = patience_seconds
        self._asking: Asking | None = None
        self._sources = tuple(sources)
        self._cache = cache
        self._listing: Listing | None = None
        # Its models, by id.
        self._sorted: list[Model] = []
        self._refreshing = threading.Lock()
        # What headers said before this program began, for as long as a source has not answered yet.
        self._cached: Mapping[Sighting, Inspection] = {}
        # What headers have said that is not on disk yet.
        self._read: list[tuple[Sighting, Inspection]] = []
        self._next_keep_at = float("-inf")
        # Told what each scan but the first has found changed, in order, once the listing has it. It is called in the
        # thread that scans, which waits for it: it hands the change on and returns, and never scans itself.
        self.on_change: Callable[[Change], None] = lambda change: None

    def refresh(self) -> "list[Change]":
        """Scans again, which blocks; only the headers of new and changed files are read. Returns what has changed
        since the scan before, if there was one, after `on_change` has been told."""
        from shimmy.models.header_cache import HeaderCache
        from shimmy.models.scan import scan

        with self._refreshing:
            asking = self._patient()
            before, cache = self._listing, HeaderCache(self._cache) if self._cache else None
            if cache and before is None:
                self._cached = cache.read()
            listing = scan(self._sources, before, self._cached, asking)
            if not listing.silent:
                self._cached = {}
            self._tell_silent(set(before.silent if before else ()), set(listing.silent))
            changed = self._replace(listing)
            if cache is None:
                self._read = []
            elif self._read and time.monotonic() >= self._next_keep_at:
                began_at = time.monotonic()
                cache.add(self._read)
                self._read = []
                self._next_keep_at = time.monotonic() + _KEEP_SHARE * (time.monotonic() - began_at)
            return changed

    def look_again(self, files: "Mapping[str, Source]") -> "list[Change] | None":
        """The same when only these files can have changed, each a `.gguf` file in a folder that no source but its own
        searches, and no shard: only they are looked at. None, and nothing done, where only a scan can tell."""
        from shimmy.models.scan import look_again

        with self._refreshing:
            seen = look_again(self._listing, files, self._patient()) if self._listing is not None else None
            return self._replace(*seen) if seen is not None else None

    def _patient(self) -> "Asking | None":
        """For one thread at a time."""
        if self._asking is None and self.patience_seconds is not None:
            from shimmy.models.asking import Asking

            self._asking = Asking(self.patience_seconds)
        return self._asking

    def _replace(self, listing: "Listing", ids: set[str] | None = None) -> "list[Change]":
        """What headers say is kept on disk with the next scan only: a file for all of them would be written for one."""
        from shimmy.models.listing import changes

        ordered = sorted(listing.models.values(), key=lambda model: model.id)
        before, self._listing, self._sorted = self._listing, listing, ordered
        self._read += listing.read
        changed = list(changes(before, listing, ids)) if before is not None else []
        for change in changed:
            self._tell(change)
        return changed

    def _tell_silent(self, before: "set[Source]", now: "set[Source]") -> None:
        for source in now - before:
            log.warning("%s: %s does not answer; what is known of it stays listed", source.label, source.place)
        for source in before - now:
            log.info("%s: %s answers again", source.label, source.place)

    def settled(self) -> set[str]:
        """The paths of files that were being written and seem to be whole now, so that it is time to look again."""
        from shimmy.models.scan import settled

        return settled(self._listing) if self._listing is not None else set()

    def unsettled(self) -> set[str]:
        """The paths of files that may still be written."""
        return {path for sighting in (self._listing.unsettled if self._listing else ()) for path in sighting.paths}

    def _tell(self, change: "Change") -> None:
        try:
            self.on_change(change)
        except Exception:
            log.exception("that %s was %s went unheard", change.id, change.kind)

    @property
    def is_partial(self) -> bool:
        """Whether a source did not answer, and may at any time."""
        return self._listing is not None and bool(self._listing.silent)

    @property
    def vain_seconds(self) -> float:
        """How long all scans and looks have waited for sources that did not answer."""
        return self._asking.vain_seconds if self._asking is not None else 0.0

    def models(self) -> "list[Model]":
        """Sorted by id, those that cannot be served included."""
        return self._sorted.copy()

    def skipped(self) -> "list[Skipped]":
        """The files that look like models and are not listed."""
        return list(self._listing.skipped) if self._listing else []

    def named(self) -> "list[tuple[str, Model]]":
        """All models by each of their names, those that cannot be served included."""
        return [*((model.id, model) for model in self._sorted), *self.further_names()]

    def further_names(self) -> "list[tuple[str, Model]]":
        """What else somebody calls a model, by `cp` or a link, with that model; sorted. The files were found before."""
        names = sorted({each.name for each in self.skipped() if each.name})
        found = ((name, self.look_up(name)) for name in names)
        return [(name, model) for name, model in found if model is not None and model.id != name]

    @property
    def sources(self) -> "tuple[Source, ...]":
        """In the order in which they are searched."""
        return self._sources

    def find(self, name: str) -> "Model":
        """The model that `name` leads to: an id, however spelled and without `:latest`, or another name of its file.

        Raises `ModelNotFound`, or `ModelInvalid` for one that cannot be served.
        """
        model = self.look_up(name)
        if model is None:
            raise ModelNotFound(f"the model {name[:200]!r} does not exist; {self._available()}", param="model")
        if model.invalid:
            raise ModelInvalid(f"the model {model.id!r} cannot be served: {model.invalid}", param="model")
        return model

    def look_up(self, name: str) -> "Model | None":
        """The same, but one that cannot be served as well, and None for none."""
        return self._listing.find(name) if self._listing else None

    def searched(self) -> list[str]:
        """The places that are looked in, each with what is wrong with it."""
        return [f"{source.label}: {source.place}{_in_brackets(self.trouble_with(source))}" for source in self._sources]

    def trouble_with(self, source: "Source") -> str | None:
        """Why nothing can be found there."""
        from shimmy.models.discovery import trouble_with

        if self._listing is not None and source in self._listing.silent:
            return "does not answer"
        return trouble_with(source.place)

    def _available(self) -> str:
        ids = [model.id for model in self.models() if not model.invalid]
        if not ids:
            return "no models were found on this machine"
        more = f" and {len(ids) - _MAX_NAMES_IN_MESSAGE} more" if len(ids) > _MAX_NAMES_IN_MESSAGE else ""
        return f"there is {', '.join(ids[:_MAX_NAMES_IN_MESSAGE])}{more}"


def _in_brackets(text: str | None) -> str:
    return f" ({text})" if text else ""
