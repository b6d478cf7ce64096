"""`shimmy probe`: load one model, as the server would, and say what came of it."""

from typing import TYPE_CHECKING, Any

import click

from shimmy.cli.options import engine_options, model_sources
from shimmy.cli.output import count

if TYPE_CHECKING:
    from shimmy.core.settings import Settings
    from shimmy.pool.placement import ModelStatus


@click.command("probe", help="Load the model NAME once and say what came of it.")
@click.argument("name")
@model_sources
@engine_options
def command(name: str, **flags: Any) -> None:
    from shimmy.cli.interrupt import run
    from shimmy.core.settings import Settings

    status = run(_load(Settings(**flags, lora_model=name), name))
    if status.gpu_failure is not None:
        click.echo(f"warning: {status.gpu_failure}", err=True)
    click.echo(f"ok: loaded {status.id} {_figures(status)}")


async def _load(settings: "Settings", name: str) -> "ModelStatus":
    from shimmy.cli.engine import engine

    async with engine(settings) as inference:
        await inference.models.preload(name)
        [status] = inference.models.statuses()
        return status


def _figures(status: "ModelStatus") -> str:
    loaded = status.loaded
    assert loaded is not None, "a preload that returned has loaded the model"
    layers = "".join(f"{number} layers on {device}, " for device, number in loaded.layers.items())
    template = f", chat template from {loaded.template_source}" if loaded.template_source else ""
    return (
        f"in {loaded.load_seconds:.2f} s: {count(loaded.num_parameters)} parameters, "
        f"{loaded.num_sequences} sequences in a context of {loaded.context_length} tokens, "
        f"{layers}{loaded.num_threads} threads on {loaded.cpu_variant}{template}"
    )
