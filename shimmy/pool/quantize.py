"""A model in another quantization or format: asked of a worker that serves nothing, which writes the file itself."""

from collections.abc import Callable
from contextlib import suppress
from os import unlink

from shimmy.core import ipc
from shimmy.pool.inquiry import Answer, Inquiry, Notice
from shimmy.pool.process import Spawn, spawn_worker


async def quantize(
    job: ipc.Quantize, on_progress: Callable[[ipc.QuantizeProgress], None], spawn: Spawn = spawn_worker
) -> ipc.Quantized:
    """Raises what the worker says is wrong, or `ShimmyError` when it ends; nothing is left of half a file then."""
    return await _written(job, ipc.Quantized, ipc.QuantizeProgress, on_progress, spawn)


async def convert(
    job: ipc.Convert, on_progress: Callable[[ipc.LoadProgress], None], spawn: Spawn = spawn_worker
) -> ipc.Converted:
    """The same of a checkpoint."""
    return await _written(job, ipc.Converted, ipc.LoadProgress, on_progress, spawn)


async def _written(
    job: ipc.Quantize | ipc.Convert,
    answer: type[Answer],
    notice: type[Notice],
    on_progress: Callable[[Notice], None],
    spawn: Spawn,
) -> Answer:
    inquiry = Inquiry("write the whole file", answer, notice, on_progress)
    try:
        return await inquiry.ask(spawn, job)
    finally:
        with suppress(FileNotFoundError):
            unlink(job.partial)
