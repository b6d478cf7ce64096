"""The worker's end of the pipe: msgpack frames on two file descriptors. It knows no message's meaning."""

import os
import sys
from _thread import allocate_lock
from collections.abc import Iterator
from typing import TYPE_CHECKING

from shimmy.core import frames, startup

if TYPE_CHECKING:
    from shimmy.core import ipc

_READ_BYTES = 1 << 16


def receive(descriptor: int) -> "Iterator[ipc.ToWorker]":
    """Messages until the server closes its end. Raises `FrameError` on garbage."""
    reader = frames.FrameReader(startup.FirstMessage)
    is_first = True
    while data := os.read(descriptor, _READ_BYTES):
        for message in reader.feed(data):
            yield message
            if is_first:
                from shimmy.core import ipc

                is_first = False
                reader.expect(ipc.ToWorker)


class Sender:
    """Writes whole frames, from any thread; blocks while the server does not read."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # One thread at a time: a frame that is longer than what a pipe takes at once is written in several goes.
        self._turn = allocate_lock()

    def __call__(self, message: "ipc.FromWorker") -> None:
        rest = memoryview(frames.encode(message))
        with self._turn:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


def take_over_stdio() -> tuple[int, int]:
    """Moves the frame pipes away from stdin and stdout, so that nothing a library prints can end up in a frame.

    Returns (receiving, sending) descriptors; afterwards stdin is empty and stdout goes to stderr.
    """
    receiving, sending = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    _keep_line_ends(receiving, sending)
    return receiving, sending


def _keep_line_ends(*descriptors: int) -> None:
    """Windows translates them, in a text that frames are not."""
    if sys.platform == "win32":
        import msvcrt

        for descriptor in descriptors:
            msvcrt.setmode(descriptor, os.O_BINARY)
