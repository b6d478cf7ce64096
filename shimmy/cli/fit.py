"""`shimmy fit`: what a model will take of this machine's memory, at several lengths of context."""

from functools import cache
from typing import TYPE_CHECKING, Any

import click

from shimmy.cli.options import engine_options, model_sources, size
from shimmy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimmy.core.settings import Settings
    from shimmy.models.listing import Model
    from shimmy.pool.estimate import Estimate

_CONTEXTS = (2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)
_HEADINGS = ("CONTEXT", "WEIGHTS", "CACHE", "OTHER", "TOTAL", "FITS")


@click.command("fit", help="Estimate what the model NAME takes of this machine's memory, at several contexts.")
@click.argument("name")
@click.option("--ctx", type=click.IntRange(32, 2**31 - 1), multiple=True, help="Only this context; may be repeated.")
@click.option("--memory-budget", type=size, metavar="SIZE", help="Instead of what the system has left.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON, in bytes.")
@model_sources
@engine_options
def command(name: str, ctx: tuple[int, ...], memory_budget: int | None, as_json: bool, **flags: Any) -> None:
    from shimmy.core.settings import Settings

    settings = Settings(**flags)
    model, estimates = _estimates(name, settings, ctx)
    limit = memory_budget if memory_budget is not None else _left()
    if as_json:
        rows = [_described(each, limit) for each in estimates]
        print_json({"id": model.id, "limit_bytes": limit, "contexts": rows})
    else:
        print_table([_HEADINGS, *(_row(each, limit) for each in estimates)])


def _estimates(name: str, settings: "Settings", contexts: "Sequence[int]") -> "tuple[Model, list[Estimate]]":
    """Nothing that could be loaded is: what counts is the whole of each context."""
    import msgspec

    from shimmy.cli.list import scanned
    from shimmy.core.startup import EngineOptions
    from shimmy.pool.estimate import estimate

    model = scanned(settings.model_path, settings.model_dirs).find(name)
    options = EngineOptions(settings=b"" if settings.engine is None else msgspec.msgpack.encode(settings.engine))
    basis = estimate(model, options)
    longest = (model.facts.context_length if model.facts is not None else None) or _CONTEXTS[-1]
    wanted = contexts or [*(length for length in _CONTEXTS if length < longest), longest]
    return model, [basis.with_cells(length) for length in wanted]


def fits_here(model: "Model") -> bool | None:
    """Whether this machine could load it if nothing else took its memory; None where that is not known."""
    from shimmy.core.startup import EngineOptions
    from shimmy.pool.estimate import estimate

    total = _total()
    return None if total is None or model.facts is None else estimate(model, EngineOptions()).total_bytes <= total


@cache
def _total() -> int | None:
    from shimmy.pool.room import SPARE_PART, system_memory

    found = system_memory()
    return None if found is None else found.total_bytes - found.total_bytes // SPARE_PART


def _left() -> int | None:
    from shimmy.pool.room import SPARE_PART, system_memory

    found = system_memory()
    return None if found is None else max(0, found.available_bytes - found.total_bytes // SPARE_PART)


def _described(estimate: "Estimate", limit: int | None) -> dict[str, Any]:
    return {
        "context_length": estimate.num_cells,
        "weights_bytes": estimate.weights_bytes,
        "cache_bytes": estimate.cache_bytes,
        "other_bytes": estimate.process_bytes + estimate.compute_bytes,
        "total_bytes": estimate.total_bytes,
        "fits": None if limit is None else estimate.total_bytes <= limit,
    }


def _row(estimate: "Estimate", limit: int | None) -> tuple[str, ...]:
    from shimmy.core.sizes import binary_size

    described = _described(estimate, limit)
    sizes = (binary_size(described[f"{part}_bytes"]) for part in ("weights", "cache", "other", "total"))
    fits = {True: "yes", False: "no", None: "unknown"}[described["fits"]]
    return (str(estimate.num_cells), *sizes, fits)
