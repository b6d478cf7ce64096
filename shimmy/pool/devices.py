"""The devices llama.cpp sees: asked of a worker that holds no model, because only workers load the native library."""

import asyncio

from shimmy.core import ipc
from shimmy.core.errors import ShimmyError
from shimmy.pool.inquiry import Inquiry
from shimmy.pool.process import Spawn, spawn_worker

_ANSWER_SECONDS = 60.0


async def list_devices(
    spawn: Spawn = spawn_worker, only: str | None = None, hung: dict[str, str] | None = None
) -> ipc.Devices:
    """Of all backends, or of `only` one beside the CPU's. Raises what the worker says is wrong, or `ShimmyError` when
    it ends, misbehaves or stays silent.

    A library that ends the worker, or never comes back, becomes a backend that is absent: the next worker is told to
    leave it alone. With `hung` that holds for the next call, too: to wait for it takes a minute.
    """
    hung = {} if hung is None else hung
    unusable = dict(hung)
    opened: list[str] = []
    while True:
        opened.clear()
        inquiry = Inquiry("list its devices", ipc.Devices, ipc.Opening, lambda notice: opened.append(notice.path))
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await inquiry.ask(spawn, ipc.ListDevices(unusable, only))
        except TimeoutError as error:
            if not opened or opened[-1] in unusable:
                said = f"the worker process did not list its devices in {_ANSWER_SECONDS:g} s"
                raise ShimmyError(said) from error
            unusable[opened[-1]] = hung[opened[-1]] = f"it did not open in {_ANSWER_SECONDS:g} s"
        except ShimmyError:
            if inquiry.exit is None or not opened or opened[-1] in unusable:
                raise
            unusable[opened[-1]] = f"the process that opened it ended ({inquiry.exit})"
