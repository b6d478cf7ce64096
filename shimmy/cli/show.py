"""`shimmy show`: what the header of one model says."""

from datetime import datetime
from typing import TYPE_CHECKING

import click

from shimmy.cli.list import described, scanned
from shimmy.cli.options import model_sources
from shimmy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shimmy.core.modelfile import Own
    from shimmy.models.listing import Model


# Told by another row, or of use to estimates alone.
_NOT_SHOWN = ("has_chat_template", "cache_row", "weights")


@click.command("show", help="Show what is known of the model NAME from its header.")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
@model_sources
def command(name: str, as_json: bool, model_path: str | None, model_dirs: tuple[str, ...]) -> None:
    model = scanned(model_path, model_dirs).find(name)
    if as_json:
        print_json(described(model))
    else:
        print_table(_rows(model))


def _rows(model: "Model") -> list[tuple[str, str]]:
    import msgspec

    from shimmy.cli.fit import fits_here

    facts = {name: value for name, value in msgspec.to_builtins(model.facts).items() if name not in _NOT_SHOWN}
    modified = datetime.fromtimestamp(model.modified_unix).isoformat(" ", "seconds")
    return [
        ("id", model.id),
        *((label.replace("_", " "), _text(value)) for label, value in facts.items()),
        ("template source", _text(model.facts.template_source if model.facts else None)),
        *_own_rows(model.own),
        ("fits here", {True: "yes", False: "no", None: "unknown"}[fits_here(model)]),
        ("size", f"{model.size_bytes:,} bytes"),
        ("modified", modified),
        ("source", model.source),
        ("state", "ok"),
        *(("file", path) for path in model.paths),
    ]


def _own_rows(own: "Own") -> "Iterator[tuple[str, str]]":
    """What comes with it beside its weights; only what there is."""
    from shimmy.models.names import printable

    if own.layers:
        yield "comes with", ", ".join(dict.fromkeys(each.kind for each in own.layers))
    if own.sampling:
        yield "own sampling", _text(own.sampling)
    if own.stop:
        yield "own stop", ", ".join(map(repr, own.stop))
    if own.system:
        yield "system", printable(own.system)


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return " ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _text(value: object) -> str:
    match value:
        case None:
            return "not stated"
        case list() | tuple():
            return ", ".join(map(str, value))
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case dict():
            return ", ".join(f"{name} {_value(each)}" for name, each in value.items()) or "not stated"
    return str(value)
