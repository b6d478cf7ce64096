"""A model's file in another quantization: asked of a worker that serves nothing, which writes the file itself."""

from collections.abc import Callable
from contextlib import suppress
from os import unlink

from shimmy.core import ipc
from shimmy.pool.inquiry import Inquiry
from shimmy.pool.process import Spawn, spawn_worker


async def quantize(
    job: ipc.Quantize, on_progress: Callable[[ipc.QuantizeProgress], None], spawn: Spawn = spawn_worker
) -> ipc.Quantized:
    """Raises what the worker says is wrong, or `ShimmyError` when it ends; nothing is left of half a file then."""
    inquiry = Inquiry("write the whole file", ipc.Quantized, ipc.QuantizeProgress, on_progress)
    try:
        return await inquiry.ask(spawn, job)
    finally:
        with suppress(FileNotFoundError):
            unlink(job.partial)
