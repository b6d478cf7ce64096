"""Ends workers that hang: somebody waits for them, and nothing in them has run since long ago; or they have requests,
all their threads sleep, and the one that computes has not woken since then.

A worker that is merely slow is none of them: whatever it does wakes a thread, for requests that one, and who runs,
wants to, or has been stopped does not sleep. Knows no requests and no models, only whether there is something to do.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from shimmy.hardware.sleep import Rest, rest
from shimmy.pool.handle import Handle

log = logging.getLogger(__name__)

# Looks are counted, not seconds: while the machine itself sleeps nobody looks.
NUM_LOOKS = 10

# What is another as soon as a worker has done something.
_Trace = tuple[str, int]


class _Seen(NamedTuple):
    trace: _Trace | None
    num_still: int = 0


class Watchdog:
    """Looks at `handles` for as long as one of them has something to do; `note_work` whenever one may have."""

    def __init__(
        self,
        handles: Callable[[], Iterable[Handle]],
        hang_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        look: Callable[[int], Rest | None] = rest,
    ) -> None:
        self._handles = handles
        self._hang_seconds = hang_seconds
        self._sleep, self._look = sleep, look
        self._task: asyncio.Task[None] | None = None

    def note_work(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        seen: dict[int, _Seen] = {}
        while True:
            await self._sleep(self._hang_seconds / NUM_LOOKS)
            handles = [each for each in self._handles() if each.num_streams or each.has_work]
            if not handles:
                return
            busy = [each for each in handles if each.has_work]
            seen = {each.serial: self._look_at(each, seen.get(each.serial)) for each in busy}
            for each in busy:
                if seen[each.serial].num_still >= NUM_LOOKS:
                    log.error("the worker of model %s hangs (%s)", each.name, each.work)
                    each.end_hung()

    def _look_at(self, handle: Handle, before: _Seen | None) -> _Seen:
        now = self._trace_of(handle)
        if now is None or before is None or now != before.trace:
            return _Seen(now)
        return _Seen(now, before.num_still + 1)

    def _trace_of(self, handle: Handle) -> _Trace | None:
        """None while it does something. Questions may wake other threads all the time while requests get nowhere."""
        found = self._look(handle.pid) if handle.pid is not None else None
        if found is None:
            return None
        if handle.has_requests and not found.on_disk:
            return "main", found.main
        return "all", found.all
