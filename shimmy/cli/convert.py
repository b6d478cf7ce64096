"""`shimmy convert`: a checkpoint in SafeTensors as a GGUF file, to keep or to pass on."""

import os
import time
from typing import TYPE_CHECKING

import click

from shimmy.cli.output import decimal_bytes
from shimmy.cli.progress import LoadingBar
from shimmy.cli.quantize import file_type, quantized_file
from shimmy.cli.target import check_target, partial_beside

if TYPE_CHECKING:
    from shimmy.core.ipc import Convert, Converted, LoadProgress
    from shimmy.models.folders import Found

_HELP = """Write the SafeTensors model in the folder IN as the GGUF file OUT.

Its weights keep their type (F32, F16 or BF16), unless TYPE says what to quantize them to, as for shimmy quantize. To
serve a folder it need not be converted: a server does that by itself, once.
"""


@click.command("convert", help=_HELP)
@click.argument("source", metavar="IN", type=click.Path(exists=True, file_okay=False))
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False))
@click.argument("kind", metavar="[TYPE]", type=file_type, required=False)
@click.option("--force", is_flag=True, help="Replace OUT if there is such a file.")
def command(source: str, target: str, kind: int | None, force: bool) -> None:
    from shimmy.cli.interrupt import run

    check_target(source, target, force)
    found = _checked(source)
    began = time.monotonic()
    place = os.path.abspath(target)
    if kind is None:
        run(_convert(_job(found, source, place, force)))
    else:
        _convert_and_quantize(found, source, place, kind, force)
    size = decimal_bytes(os.path.getsize(place))
    from shimmy.models.names import printable

    click.echo(f"ok: wrote {printable(target)} in {time.monotonic() - began:.1f} s: {size}")


def _checked(source: str) -> "Found":
    """Raises `ModelInvalid` for a folder with nothing that can be converted."""
    from shimmy.core.errors import ModelInvalid
    from shimmy.models.facts import inspect
    from shimmy.models.folders import File

    [found] = File("IN", source).find()
    reason = found.reason or inspect(found.paths).invalid
    if reason:
        raise ModelInvalid(f"{source}: {reason}")
    return found


def _job(found: "Found", source: str, place: str, replace: bool) -> "Convert":
    from shimmy.core.ipc import Convert
    from shimmy.models.names import title_of_folder

    name = title_of_folder(os.path.abspath(source))
    return Convert(list(found.paths), place, partial_beside(place), name, replace)


def _convert_and_quantize(found: "Found", source: str, place: str, kind: int, replace: bool) -> None:
    """By way of a file beside OUT, which is as large as the weights are."""
    from shimmy.cli.interrupt import run

    whole = partial_beside(f"{place}.unquantized")
    try:
        run(_convert(_job(found, source, whole, replace=True)))
        run(quantized_file(whole, place, kind, replace=replace))
    finally:
        if os.path.exists(whole):
            os.unlink(whole)


async def _convert(job: "Convert") -> "Converted":
    from shimmy.pool.quantize import convert

    bar = LoadingBar(action="converting")

    def show(progress: "LoadProgress") -> None:
        bar(job.name, progress.fraction)

    try:
        return await convert(job, show)
    finally:
        bar.clear()
