"""Has models leave that nobody has used for as long as they are kept. Runs only while there is a time to wait for."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shimmy.pool.group import Group


class Expiry:
    """`unload` is told which of `residents` has to leave; `note_change` whenever one of them may have to sooner."""

    def __init__(
        self,
        residents: "Callable[[], Iterable[Group]]",
        unload: "Callable[[Group], None]",
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._residents, self._unload = residents, unload
        self._clock, self._sleep = clock, sleep
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def note_change(self) -> None:
        self._changed.set()
        if (self._task is None or self._task.done()) and any(map(self._is_limited, self._residents())):
            self._task = asyncio.create_task(self._run())

    def remaining_seconds(self, resident: "Group") -> float:
        """Until it leaves unless somebody uses it; `inf` for never, and all of its time while it is in use."""
        if not self._is_limited(resident):
            return inf
        keep_alive = resident.stay.keep_alive_seconds
        return max(0.0, resident.idle_since + keep_alive - self._clock()) if resident.is_idle else keep_alive

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            idle = [each for each in self._residents() if each.is_idle and self._is_limited(each)]
            for each in idle:
                if self.remaining_seconds(each) <= 0:
                    self._unload(each)
            waiting = [seconds for each in idle if (seconds := self.remaining_seconds(each)) > 0]
            if not waiting:
                # Whoever becomes idle says so.
                return
            await self._wait(min(waiting))

    async def _wait(self, seconds: float) -> None:
        """So long, or until something has changed."""
        tasks = [asyncio.ensure_future(self._sleep(seconds)), asyncio.ensure_future(self._changed.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()

    @staticmethod
    def _is_limited(resident: "Group") -> bool:
        return resident.stay.keep_alive_seconds < inf and not resident.stay.pinned
