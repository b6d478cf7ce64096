"""One worker process: how it is started, what goes over its pipes, how it ended.

Owns the operating system's side only; what the messages mean is the owner's business (`Handle`, `list_devices`).
"""

import asyncio
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from shimmy.core import ipc
from shimmy.pool.command import worker_argv, worker_environment

log = logging.getLogger(__name__)

_STDERR_LINES = 50
_STDERR_LINE_BYTES = 4096
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_LINGER_SECONDS = 1.0
# What the system does not end by then, since it waits for a drive that does not answer, it may end some day.
_UNKILLABLE_SECONDS = 30.0


class Exit(msgspec.Struct, frozen=True):
    """How a worker ended: exit code, or minus the signal; `violation` is what it was killed for, if we did it for what
    it sent, and `has_hung` says that we did it because it did nothing any more."""

    returncode: int
    stderr_tail: tuple[str, ...] = ()
    violation: str | None = None
    has_hung: bool = False

    def __str__(self) -> str:
        """Safe to show to a client."""
        if self.violation is not None:
            return "it broke the frame protocol"
        if self.has_hung:
            return "it did nothing any more"
        if self.returncode >= 0:
            return f"exit code {self.returncode}"
        name = signal_name(-self.returncode)
        return f"{name}, perhaps for lack of memory" if name == "SIGKILL" else name


OnMessage = Callable[[ipc.FromWorker], None]
OnEnd = Callable[[Exit], None]
Spawn = Callable[[OnMessage, OnEnd], Awaitable["WorkerProcess"]]


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


async def spawn_worker(on_message: OnMessage, on_end: OnEnd) -> "WorkerProcess":
    """The default `Spawn`; raises OSError when the process cannot be started."""
    return await spawn(worker_argv(), worker_environment(os.environ), on_message, on_end)


async def spawn(
    argv: Sequence[str], environment: Mapping[str, str], on_message: OnMessage, on_end: OnEnd
) -> "WorkerProcess":
    """Start a worker apart from a terminal's other processes, so that Ctrl-C reaches the server alone."""
    loop = asyncio.get_running_loop()
    _, worker = await loop.subprocess_exec(
        lambda: WorkerProcess(on_message, on_end), *argv, env=dict(environment), **apart()
    )
    return worker


def apart() -> dict[str, Any]:
    """For a process that Ctrl-C does not reach: a session of its own, or what Windows has for one."""
    if sys.platform == "win32":
        from subprocess import CREATE_NEW_PROCESS_GROUP

        return {"creationflags": CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


class WorkerProcess(asyncio.SubprocessProtocol):
    """Calls `on_message` per frame, then `on_end` exactly once, when the process is gone and its output is read.

    `on_message` may raise `ipc.FrameError` for a message that is out of place: like an undecodable frame, that kills
    the worker, because a message that is lost would leave someone waiting.
    """

    def __init__(self, on_message: OnMessage, on_end: OnEnd) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._frames = ipc.FrameReader(ipc.FromWorker)
        self._stderr = _Tail()
        self._violation: str | None = None
        self._has_hung = False
        self._clear = asyncio.Event()
        self._clear.set()
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()
        self._closing = False

    @property
    def pid(self) -> int:
        return self._transport.get_pid() or 0

    def send(self, message: ipc.ToWorker) -> None:
        """Write, or drop it when the worker is gone. For small messages: what the pipe does not take is kept."""
        if not self._stdin.is_closing():
            self._stdin.write(ipc.encode(message))

    async def send_in_turn(self, message: ipc.ToWorker) -> None:
        """Write when the worker has read what was written before; dropped when the worker is gone.

        Raises `ipc.FrameError` for a message over the frame limit.
        """
        async with self._turn:
            await self._clear.wait()
            self.send(message)

    async def close(self, grace_seconds: float) -> None:
        """Close the worker's stdin, its sign to leave, and kill it after `grace_seconds`. Returns once it ended, or is
        given up."""
        self._closing = True
        self._stdin.close()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._ended.wait()
        except TimeoutError:
            level = logging.WARNING if grace_seconds else logging.DEBUG
            log.log(level, "worker %d did not leave within %g s: killed", self.pid, grace_seconds)
        finally:
            self._give_up()
        await self._ended.wait()

    def end_hung(self) -> None:
        """It would neither answer nor leave."""
        self._has_hung = True
        self._give_up()

    def _give_up(self) -> None:
        """Kill it. Whoever waits for it does not wait for the system as well."""
        if not self._ended.is_set():
            self.kill()
            asyncio.get_running_loop().call_later(_UNKILLABLE_SECONDS, self._end)

    def kill(self) -> None:
        """os.kill and not the transport's: that one may reap the child before asyncio's watcher does. Windows has
        neither watcher nor SIGKILL."""
        if self._transport.get_returncode() is None:
            try:
                if sys.platform == "win32":
                    self._transport.kill()
                else:
                    os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.SubprocessTransport, transport)
        self._stdin = cast(asyncio.WriteTransport, self._transport.get_pipe_transport(_STDIN))
        frames = cast(asyncio.ReadTransport, self._transport.get_pipe_transport(_STDOUT))
        frames.set_protocol(_Frames(self.pipe_data_received, frames.get_protocol()))

    def pause_writing(self) -> None:
        self._clear.clear()

    def resume_writing(self) -> None:
        self._clear.set()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == _STDERR:
            self._stderr.feed(data, self.pid)
        elif self._violation is None:
            try:
                for message in self._frames.feed(data):
                    self._on_message(message)
            except Exception as error:
                if not isinstance(error, ipc.FrameError):
                    log.exception("cannot handle what worker %d sends", self.pid)
                self._violation = str(error)
                self.kill()

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """A worker that closes a frame pipe is on its way out; one that then stays is helped. When it was us who closed
        its stdin, `close` says how long it may take."""
        if fd != _STDERR and not self._closing:
            self._clear.set()
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.kill)

    def process_exited(self) -> None:
        """`connection_lost` follows when the pipes are read to the end; a stray heir of them must not hold that up."""
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._clear.set()
        self._transport.close()
        returncode = self._transport.get_returncode()
        if returncode is None:
            log.error("worker %d cannot be ended by the system: it is left behind", self.pid)
        self._on_end(Exit(returncode or 0, self._stderr.lines(), self._violation, self._has_hung))


class _Frames(asyncio.Protocol):
    """Reads the frame pipe in asyncio's place, which would hand over what it reads in the loop's next turn: a turn more
    for every token."""

    def __init__(self, on_data: Callable[[int, bytes], None], other: asyncio.BaseProtocol) -> None:
        self._on_data = on_data
        self._other = other

    def data_received(self, data: bytes) -> None:
        self._on_data(_STDOUT, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._other.connection_lost(exc)


class _Tail:
    """The last lines of a worker's stderr, for the log when it crashes."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_STDERR_LINES)
        self._partial = b""

    def feed(self, data: bytes, pid: int) -> None:
        *complete, partial = (self._partial + data).split(b"\n")
        self._partial = partial[-_STDERR_LINE_BYTES:]
        for line in complete:
            text = line[-_STDERR_LINE_BYTES:].decode(errors="replace")
            self._lines.append(text)
            level = logging.WARNING if text.startswith(ipc.WARNING_MARK) else logging.DEBUG
            log.log(level, "worker %d: %s", pid, text.removeprefix(ipc.WARNING_MARK))

    def lines(self) -> tuple[str, ...]:
        partial = self._partial.decode(errors="replace")
        return (*self._lines, partial) if partial else tuple(self._lines)
