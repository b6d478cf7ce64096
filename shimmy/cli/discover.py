"""`shimmy discover`: every place that is searched, what is there, and why some of it is not served."""

import os
from typing import TYPE_CHECKING, Any

import click

from shimmy.cli.list import described
from shimmy.cli.options import model_sources
from shimmy.cli.output import decimal_bytes, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimmy.models.catalog import Catalog
    from shimmy.models.discovery import Source
    from shimmy.models.listing import Model, Skipped


_PATIENCE_SECONDS = 30.0


@click.command("discover", help="Search all known places anew; print what is where, and why files are not served.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@model_sources
def command(as_json: bool, model_path: str | None, model_dirs: tuple[str, ...]) -> None:
    from shimmy.core.settings import Settings
    from shimmy.models.catalog import Catalog
    from shimmy.models.discovery import sources_from

    # Without the cached headers: each is read.
    sources = sources_from(Settings(model_path=model_path, model_dirs=model_dirs), os.environ)
    catalog = Catalog(sources, patience_seconds=_PATIENCE_SECONDS)
    catalog.refresh()
    places = [Place(catalog, source) for source in catalog.sources]
    if as_json:
        return print_json([place.described() for place in places])
    for place in places:
        place.print()


class Place:
    """What one scan has found in one place."""

    def __init__(self, catalog: "Catalog", source: "Source") -> None:
        self.source = source
        self.trouble = catalog.trouble_with(source)
        self.models: list[Model] = [each for each in catalog.models() if _place_of(catalog, each) is source]
        self.skipped: list[Skipped] = [each for each in catalog.skipped() if _place_of(catalog, each) is source]
        self.closed = [] if self.trouble else _closed_folders(source)

    def described(self) -> dict[str, Any]:
        return {
            "label": self.source.label,
            "place": self.source.place,
            "trouble": self.trouble,
            "unreadable_folders": self.closed,
            "models": [described(model) for model in self.models],
            "skipped": [{"name": each.name, "paths": list(each.paths), "reason": each.reason} for each in self.skipped],
        }

    def print(self) -> None:
        num_served = sum(model.invalid is None for model in self.models)
        found = self.trouble or f"{num_served} {'model' if num_served == 1 else 'models'}"
        print_table([(f"{self.source.label}:", f"{self.source.place} ({found})")])
        if rows := list(self._rows()):
            print_table(rows)

    def _rows(self) -> "Iterator[tuple[str, ...]]":
        for model in self.models:
            yield f"  {model.id}", decimal_bytes(model.size_bytes), _what(model.invalid), _path(model.paths)
        for skipped in self.skipped:
            what = f"served: {skipped.reason}" if skipped.name else _what(skipped.reason)
            yield f"  {skipped.name or '-'}", "-", what, _path(skipped.paths)
        for folder in self.closed:
            yield "  -", "-", _what("the folder cannot be read"), folder


def _place_of(catalog: "Catalog", entry: "Model | Skipped") -> "Source":
    """Several places may have one label; then it is the one that has the file below it."""
    labelled = [source for source in catalog.sources if source.label == entry.source]
    path = entry.paths[0] if entry.paths else ""
    below = (each for each in labelled if path == each.place or path.startswith(os.path.join(each.place, "")))
    return next(below, labelled[0])


def _closed_folders(source: "Source") -> list[str]:
    from shimmy.models.folders import walk

    if not os.path.isdir(source.place):
        return []
    folders = (folder for folder, _ in walk(source.place, source.depth) if folder != source.place)
    return [folder for folder in folders if not os.access(folder, os.R_OK | os.X_OK)]


def _what(reason: str | None) -> str:
    return f"not served: {reason}" if reason else "served"


def _path(paths: tuple[str, ...]) -> str:
    return paths[0] if paths else "-"
