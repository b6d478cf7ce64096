"""`shimmy quantize`: a model's file in another quantization, made by llama.cpp in a worker."""

import os
import time
from typing import TYPE_CHECKING

import click

from shimmy.cli.output import decimal_bytes
from shimmy.cli.progress import LoadingBar
from shimmy.cli.target import check_target, partial_beside

if TYPE_CHECKING:
    from shimmy.core.ipc import Quantized, QuantizeProgress

_HELP = """Write the model in the file IN as the file OUT, quantized to TYPE.

TYPE is called as everywhere: Q4_0, which is the fastest on most CPUs, Q4_K_M, Q8_0, F16 ... What is lost is lost: start
from F16, BF16 or F32 where you can.
"""


def file_type(value: str) -> int:
    """llama.cpp's number for it."""
    from shimmy.models import quantizing

    try:
        return quantizing.file_type(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("quantize", help=_HELP)
@click.argument("source", metavar="IN", type=click.Path(exists=True, dir_okay=False))
@click.argument("target", metavar="OUT", type=click.Path(dir_okay=False))
@click.argument("kind", metavar="TYPE", type=file_type)
@click.option("--threads", type=click.IntRange(1, 512), metavar="NUMBER", help="Threads to work with at most.")
@click.option("--allow-requantize", is_flag=True, help="Also where tensors of IN are quantized already.")
@click.option("--force", is_flag=True, help="Replace OUT if there is such a file.")
def command(source: str, target: str, kind: int, threads: int | None, allow_requantize: bool, force: bool) -> None:
    from shimmy.cli.interrupt import run

    check_target(source, target, force)
    shards = _checked_shards(source, allow_requantize)
    began = time.monotonic()
    done = run(
        quantized_file(
            shards[0],
            os.path.abspath(target),
            kind,
            num_threads=threads,
            replace=force,
            allow_requantize=allow_requantize,
        )
    )
    _say(target, sum(map(os.path.getsize, shards)), done, time.monotonic() - began)


def _checked_shards(source: str, allow_requantize: bool) -> tuple[str, ...]:
    """All the files of the model. Raises `ModelInvalid` for one that is broken or is no model."""
    from shimmy.core.errors import ModelInvalid
    from shimmy.models.folders import as_models
    from shimmy.models.quantizing import quantized_types

    [found] = as_models([os.path.abspath(source)])
    if found.reason:
        raise ModelInvalid(f"{source}: {found.reason}")
    try:
        quantized = quantized_types(found.paths)
    except ModelInvalid as error:
        raise ModelInvalid(f"{source}: {error.message}") from error
    if quantized and not allow_requantize:
        raise click.UsageError(
            f"{source!r} is quantized already, to {' and '.join(quantized)}. Quantized again it loses more than from "
            "F16, BF16 or F32; --allow-requantize takes that."
        )
    return found.paths


async def quantized_file(
    source: str,
    place: str,
    kind: int,
    *,
    num_threads: int | None = None,
    replace: bool = False,
    allow_requantize: bool = False,
) -> "Quantized":
    """Writes the model in `source`, or in the shards of which that is the first, to the absolute path `place`."""
    from shimmy.core.ipc import Quantize
    from shimmy.pool.quantize import quantize

    job = Quantize(source, place, partial_beside(place), kind, num_threads, replace, allow_requantize)
    bar = LoadingBar(action="quantizing")

    def show(progress: "QuantizeProgress") -> None:
        done, all_of_them = progress.num_done, progress.num_tensors
        bar(f"{done} of {all_of_them} tensors", done / all_of_them)

    try:
        return await quantize(job, show)
    finally:
        bar.clear()


def _say(target: str, source_bytes: int, done: "Quantized", seconds: float) -> None:
    from shimmy.models.names import printable

    sizes = f"{decimal_bytes(source_bytes)} -> {decimal_bytes(done.target_bytes)}"
    ratio = done.target_bytes / source_bytes
    click.echo(f"ok: wrote {printable(target)} in {seconds:.1f} s: {sizes}, {ratio:.2f} of the size")
    if done.num_fallbacks:
        share = f"{done.num_fallbacks} of {done.num_tensors} tensors"
        click.echo(f"{share} got a larger type, because this one cannot have their shape", err=True)
