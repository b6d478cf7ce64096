"""`shimmy fit`: what a model will take of this machine's memory, at several lengths of context."""

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from shimmy.cli.options import engine_options, model_sources, size
from shimmy.cli.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimmy.core.ipc import Device
    from shimmy.core.settings import Settings
    from shimmy.core.startup import EngineOptions
    from shimmy.models.listing import Model
    from shimmy.pool.demand import Needs
    from shimmy.pool.estimate import Estimate
    from shimmy.pool.gpus import GpuLimit

_CONTEXTS = (2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072)
_HEADINGS = ("CONTEXT", "WEIGHTS", "CACHE", "OTHER", "TOTAL")


class Fit(NamedTuple):
    """A model at one context: what it needs, and what there is of that in the places of which it is known."""

    context_length: int
    needs: "Needs"
    free_bytes: dict[str, int]

    @property
    def estimate(self) -> "Estimate":
        return self.needs.estimate.with_cells(self.context_length)

    @property
    def fits(self) -> bool | None:
        """None where there is not enough known to say."""
        from shimmy.pool.supervisor import MAIN

        needed = {MAIN: self.estimate.total_bytes, **self.estimate.gpu_bytes}
        if any(size > self.free_bytes[place] for place, size in needed.items() if place in self.free_bytes):
            return False
        return True if needed.keys() <= self.free_bytes.keys() else None


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
    limit = memory_budget if memory_budget is not None else _left()
    model, fits = _fits(name, settings, ctx, limit)
    if as_json:
        print_json({"id": model.id, "limit_bytes": limit, "contexts": [_described(each) for each in fits]})
    else:
        gpus = list(dict.fromkeys(name for each in fits for name in each.estimate.gpus))
        headings = (*_HEADINGS, *gpus, "FITS")
        print_table([headings, *(_row(each, gpus) for each in fits)])


def _fits(name: str, settings: "Settings", contexts: "Sequence[int]", limit: int | None) -> "tuple[Model, list[Fit]]":
    """Nothing that could be loaded is: what counts is the whole of each context."""
    import msgspec

    from shimmy.cli.list import scanned
    from shimmy.core.startup import EngineOptions
    from shimmy.hardware.backends import is_there
    from shimmy.pool.demand import Demand, Experience
    from shimmy.pool.details import details
    from shimmy.pool.gpus import fitted
    from shimmy.pool.supervisor import MAIN

    model = scanned(settings.model_path, settings.model_dirs).find(name)
    options = EngineOptions(settings=b"" if settings.engine is None else msgspec.msgpack.encode(settings.engine))
    options = fitted(options) if is_there() else options
    found, limits = _gpus(options)
    longest = (model.facts.context_length if model.facts is not None else None) or _CONTEXTS[-1]
    known = details(model, options)
    fits = []
    for length in contexts or [*(length for length in _CONTEXTS if length < longest), longest]:
        demand = Demand(model, msgspec.structs.replace(options, context_length=length), found, Experience(), known)
        free = {name: each.for_models(is_cautious=demand.fits_layers) for name, each in limits.items()}
        if limit is not None:
            free[MAIN] = limit
        fits.append(Fit(length, demand.of(free), free))
    return model, fits


def _gpus(options: "EngineOptions") -> "tuple[list[Device] | None, dict[str, GpuLimit]]":
    """Those that layers go to, and what is free of them."""
    if not options.settings:
        return [], {}
    from shimmy.cli.interrupt import run
    from shimmy.pool.devices import list_devices
    from shimmy.pool.estimate import settings_of
    from shimmy.pool.gpus import Gpus

    async def survey(only: str | None) -> "list[Device]":
        return (await list_devices(only=only)).devices

    gpus = Gpus(survey, lambda: ())
    found = run(gpus.for_layers(options))
    settings = settings_of(options)
    if not found and settings is not None and settings.num_gpu_layers:
        said = "there is no GPU for it; `shimmy gpu-info` says which are found, and why others are not"
        click.echo(f"shimmy: WARNING: {said}", err=True)
    return found, gpus.limits


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


def _described(fit: Fit) -> dict[str, Any]:
    estimate = fit.estimate
    described: dict[str, Any] = {
        "context_length": fit.context_length,
        "weights_bytes": estimate.weights_bytes,
        "cache_bytes": estimate.cache_bytes,
        "other_bytes": estimate.process_bytes + estimate.compute_bytes,
        "total_bytes": estimate.total_bytes,
        "fits": fit.fits,
    }
    if estimate.gpus:
        described["gpus"] = {
            name: {"layers": fit.needs.layers.get(name), "bytes": needed, "limit_bytes": fit.free_bytes.get(name)}
            for name, needed in estimate.gpu_bytes.items()
        }
    return described


def _row(fit: Fit, gpus: "Sequence[str]") -> tuple[str, ...]:
    from shimmy.core.sizes import binary_size

    described = _described(fit)
    sizes = (binary_size(described[f"{part}_bytes"]) for part in ("weights", "cache", "other", "total"))
    needed, layers = fit.estimate.gpu_bytes, fit.needs.layers
    columns = (f"{binary_size(needed.get(name, 0))}, {layers.get(name, 'all')} layers" for name in gpus)
    fits = {True: "yes", False: "no", None: "unknown"}[fit.fits]
    return (str(fit.context_length), *sizes, *columns, fits)
