"""A process that pulls a model. Not a thread of the server's: several streams with checksums would take the interpreter
from those who wait for tokens. It may be killed at any time, which is how it is cancelled."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress

import msgspec

from shimmy.core.errors import Draining, PullFailed, from_fault
from shimmy.core.pulling import Progress
from shimmy.pool.command import program_argv, program_environment
from shimmy.pool.process import apart


def pull_argv(name: str, revision: str | None) -> list[str]:
    """Whatever the name is, it is no flag."""
    flags = ["--json"] if revision is None else ["--json", f"--revision={revision}"]
    return [*program_argv(), "pull", *flags, "--", name]


async def pull(argv: Sequence[str], closing: asyncio.Event) -> AsyncGenerator[Progress, None]:
    """What happens, up to the status "success". Closing the generator ends the process, and so does
    `closing`. Raises what it failed with, or `Draining`."""
    devnull, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *argv, env=program_environment(os.environ), stdin=devnull, stdout=pipe, stderr=devnull, **apart()
    )
    assert process.stdout is not None
    ending = asyncio.create_task(_end(process, closing))
    try:
        async for line in process.stdout:
            progress = _decoded(line)
            if progress.error is not None:
                raise from_fault(progress.error)
            yield progress
            if progress.is_last:
                return
        if closing.is_set():
            raise Draining("the server is shutting down; what has come is kept")
        raise PullFailed(f"the process that pulled it ended with exit code {await process.wait()}")
    finally:
        ending.cancel()
        if process.returncode is None:
            _kill(process)
        await process.wait()


async def _end(process: asyncio.subprocess.Process, closing: asyncio.Event) -> None:
    await closing.wait()
    _kill(process)


def _kill(process: asyncio.subprocess.Process) -> None:
    """Like `WorkerProcess.kill`: asyncio's own may reap the child before its watcher does."""
    with suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.kill(process.pid, signal.SIGKILL)


def _decoded(line: bytes) -> Progress:
    try:
        return msgspec.json.decode(line, type=Progress)
    except ValueError as error:
        raise PullFailed(f"the process that pulls it says {line[:80]!r}") from error
