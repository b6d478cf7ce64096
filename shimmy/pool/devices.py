"""The devices llama.cpp sees: asked of a worker that holds no model, because only workers load the native library."""

import asyncio

from shimmy.core import ipc
from shimmy.core.errors import ShimmyError, from_fault
from shimmy.pool.handle import CLOSE_SECONDS
from shimmy.pool.process import Exit, Spawn, spawn_worker

_ANSWER_SECONDS = 60.0


async def list_devices(spawn: Spawn = spawn_worker) -> ipc.Devices:
    """Raises what the worker says is wrong, or `ShimmyError` when it ends, misbehaves or stays silent."""
    answer: asyncio.Future[ipc.Devices] = asyncio.get_running_loop().create_future()

    def on_message(message: ipc.FromWorker) -> None:
        match message:
            case ipc.Devices() if not answer.done():
                answer.set_result(message)
            case ipc.LoadFailed(fault) if not answer.done():
                answer.set_exception(from_fault(fault))
            case _:
                raise ipc.FrameError(f"{type(message).__name__} is no answer to ListDevices")

    def on_end(exit: Exit) -> None:
        if not answer.done():
            answer.set_exception(ShimmyError(f"the worker process ended without listing its devices ({exit})"))

    worker = await spawn(on_message, on_end)
    try:
        worker.send(ipc.ListDevices())
        return await asyncio.wait_for(answer, _ANSWER_SECONDS)
    except TimeoutError as error:
        raise ShimmyError(f"the worker process did not list its devices in {_ANSWER_SECONDS:g} s") from error
    finally:
        await worker.close(CLOSE_SECONDS)
