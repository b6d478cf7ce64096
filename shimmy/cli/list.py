"""`shimmy list`: the models on this machine, as the server would see them."""

import os
from typing import TYPE_CHECKING, Any

import click

from shimmy.cli.options import model_sources
from shimmy.cli.output import count, decimal_bytes, print_json, print_table

if TYPE_CHECKING:
    from shimmy.models.catalog import Catalog
    from shimmy.models.listing import Model


@click.command("list", help="List the models found on this machine, and the files that cannot be served.")
@click.option("--json", "as_json", is_flag=True, help="Print everything known, as JSON.")
@click.option("--short", is_flag=True, help="Print only the names of models that can be served.")
@model_sources
def command(as_json: bool, short: bool, model_path: str | None, model_dirs: tuple[str, ...]) -> None:
    catalog = scanned(model_path, model_dirs)
    models = catalog.models()
    if as_json:
        print_json([described(model) for model in models])
    elif short:
        _print_names(models)
    elif models:
        print_table([_HEADINGS, *map(_row, models)])
    if not models:
        _say_where_we_looked(catalog)


def _print_names(models: "list[Model]") -> None:
    names = [model.id for model in models if model.invalid is None]
    for name in names:
        click.echo(name)
    if models and not names:
        click.echo(f"shimmy: none of the {len(models)} files found can be served; shimmy list says why", err=True)


def scanned(model_path: str | None, model_dirs: tuple[str, ...]) -> "Catalog":
    from shimmy.core.settings import Settings
    from shimmy.models.catalog import Catalog
    from shimmy.models.discovery import header_cache, sources_from

    settings = Settings(model_path=model_path, model_dirs=model_dirs)
    catalog = Catalog(sources_from(settings, os.environ), header_cache(os.environ))
    catalog.refresh()
    return catalog


def described(model: "Model") -> dict[str, Any]:
    """A model as JSON: what the catalogue knows, without the identity, which means nothing elsewhere."""
    import msgspec

    from shimmy.cli.fit import fits_here

    known: dict[str, Any] = msgspec.to_builtins(model)
    del known["identity"]
    known["own"].pop("layers", None)
    template_source = model.facts.template_source if model.facts else None
    status = "invalid" if model.invalid else "ok"
    return known | {"status": status, "template_source": template_source, "fits": fits_here(model)}


_HEADINGS = ("NAME", "ARCH", "PARAMS", "QUANT", "CONTEXT", "SIZE", "TEMPLATE", "CAPABILITIES", "SOURCE", "STATE")


def _row(model: "Model") -> tuple[str, ...]:
    from shimmy.cli.fit import fits_here

    facts, size = model.facts, decimal_bytes(model.size_bytes)
    state = "ok" if fits_here(model) in (True, None) else "too large for this machine"
    if model.invalid:
        state = f"invalid: {model.invalid}"
    if facts is None:
        return (model.id, "-", "-", "-", "-", size, "-", "-", model.source, state)
    return (
        model.id,
        facts.architecture or "-",
        count(facts.num_parameters),
        facts.quantization or "-",
        "-" if facts.context_length is None else str(facts.context_length),
        size,
        facts.template_source or "-",
        ",".join(facts.capabilities) or "-",
        model.source,
        state,
    )


def _say_where_we_looked(catalog: "Catalog") -> None:
    places = "".join(f"\n  {place}" for place in catalog.searched())
    click.echo(
        f"shimmy: no models found; put a .gguf file into one of these, or name one with --model-path:{places}",
        err=True,
    )
