"""Runs what a subcommand waits for, so that Ctrl-C always ends it. The server has handlers of its own."""

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run`, which on its own may not notice Ctrl-C: its handler runs between two instructions of Python, and
    a signal that comes when the loop is about to wait is noticed with the next event, or never. Those that the loop
    itself handles wake it. Raises `KeyboardInterrupt` once the coroutine has cleaned up.
    """
    interrupted = False

    async def interruptible() -> T:
        task = asyncio.current_task()

        def interrupt() -> None:
            nonlocal interrupted
            if interrupted or task is None:
                raise KeyboardInterrupt
            interrupted = True
            task.cancel()

        try:
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
        except NotImplementedError:
            # That of Windows is woken by every signal.
            pass
        return await main

    try:
        return asyncio.run(interruptible())
    except asyncio.CancelledError:
        if interrupted:
            raise KeyboardInterrupt from None
        raise
