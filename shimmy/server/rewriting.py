"""Weights that are written anew, by one worker after the other, and what there is to tell of it meanwhile."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec

from shimmy.core.errors import Draining, ModelFailed
from shimmy.core.ipc import Convert, Quantize, QuantizeProgress
from shimmy.core.pulling import Progress
from shimmy.hardware.cpu import num_usable_cores

if TYPE_CHECKING:
    from shimmy.models.rewriting import Rewriting


async def rewrite(rewriting: "Rewriting", closing: asyncio.Event) -> AsyncGenerator[Progress, None]:
    """How far each of its jobs is, as so many bytes of the model before. Closing the generator ends the worker, and so
    does `closing`. Raises what the worker says is wrong, `ShimmyError` when it ends, `Draining`."""
    total = rewriting.num_bytes
    for job in rewriting.jobs:
        status = "converting model"
        if isinstance(job, Quantize):
            # Those who wait for tokens need cores, too.
            job = msgspec.structs.replace(job, num_threads=max(1, num_usable_cores() // 2))
            status = f"quantizing {rewriting.source_type} model to {rewriting.target_type}"
        async with aclosing(_fractions(job, closing)) as fractions:
            async for fraction in fractions:
                yield Progress(status, total=total, completed=int(fraction * total))


async def _fractions(job: Convert | Quantize, closing: asyncio.Event) -> AsyncGenerator[float, None]:
    """0.0 at first and 1.0 at last."""
    latest = 0.0
    news = asyncio.Event()

    def note(fraction: float) -> None:
        nonlocal latest
        latest = fraction
        news.set()

    tasks = asyncio.create_task(_done(job, note)), asyncio.create_task(closing.wait())
    for task in tasks:
        task.add_done_callback(lambda _: news.set())
    doing, leaving = tasks
    try:
        while not doing.done():
            yield latest
            await news.wait()
            news.clear()
            if leaving.done():
                raise Draining("the server is shutting down; nothing was made")
        doing.result()
        yield 1.0
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _done(job: Convert | Quantize, note: Callable[[float], None]) -> None:
    from shimmy.pool.quantize import convert, quantize

    def note_tensors(progress: QuantizeProgress) -> None:
        note(progress.num_done / max(1, progress.num_tensors))

    try:
        if isinstance(job, Convert):
            await convert(job, lambda progress: note(progress.fraction))
        else:
            await quantize(job, note_tensors)
    except OSError as error:
        raise ModelFailed(f"the model cannot have a worker process: {error.strerror}") from error
