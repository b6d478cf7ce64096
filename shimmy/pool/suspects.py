"""Requests that were inside a worker when it crashed. Which of them it was nobody knows, so each begins without the
others the next time; one that is there a second time is not given to a worker again.

Keeps digests only, and for a while.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import msgspec

from shimmy.core import ipc
from shimmy.core.errors import RequestCrashes
from shimmy.core.request import Embedding, Generation

MAX_CRASHES = 2
KEPT_SECONDS = 600.0
# What has run for so long need not be alone any more: others who were there wait for it.
ALONE_SECONDS = 5.0
MAX_SUSPECTS = 1024

Asked = Generation | Embedding | ipc.Question


class Suspects:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # How often, when the last time, and the worker's serial number then.
        self._crashes: dict[bytes, tuple[int, float, int]] = {}
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def trial(self, model: str, asked: Asked) -> AsyncGenerator[None, None]:
        """While a worker has the request. Raises `RequestCrashes` for one that must not go to any."""
        if not self._crashes or not self._count(digest := _digest(model, asked)):
            yield
            return
        async with self._alone():
            if self._count(digest) >= MAX_CRASHES:
                raise RequestCrashes(f"this request ended the model's process {MAX_CRASHES} times: it is not run again")
            yield
            # It came to its end, so it was another one.
            self._crashes.pop(digest, None)

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None, None]:
        """Without other suspects, for a while."""
        await self._turn.acquire()
        has_turn = True

        def end_turn() -> None:
            nonlocal has_turn
            if has_turn:
                has_turn = False
                self._turn.release()

        timer = asyncio.get_running_loop().call_later(ALONE_SECONDS, end_turn)
        try:
            yield
        finally:
            timer.cancel()
            end_turn()

    def note_crash(self, model: str, asked: Asked, worker: int) -> None:
        """Several of the same that were in one worker have seen one crash; `worker` is its serial number."""
        digest = _digest(model, asked)
        count = self._count(digest)
        if count and self._crashes[digest][-1] == worker:
            return
        self._crashes.pop(digest, None)
        if len(self._crashes) >= MAX_SUSPECTS:
            del self._crashes[next(iter(self._crashes))]
        self._crashes[digest] = (count + 1, self._clock(), worker)

    def _count(self, digest: bytes) -> int:
        count, at, _ = self._crashes.get(digest, (0, 0.0, 0))
        if count and self._clock() - at > KEPT_SECONDS:
            del self._crashes[digest]
            return 0
        return count


def _digest(model: str, asked: Asked) -> bytes:
    """The same for all that a worker would compute alike."""
    from hashlib import blake2b

    if isinstance(asked, Generation | Embedding):
        nobody = {"id": "", "tenant": "", "priority": 0, "timeout_seconds": None, "queue_seconds": None}
        asked = msgspec.structs.replace(asked, **nobody)
    return blake2b(msgspec.msgpack.encode((model, asked)), digest_size=16).digest()
