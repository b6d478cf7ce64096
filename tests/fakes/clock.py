"""Time that passes only when someone sleeps or the test says so, and real time that leaps."""

import asyncio


class FakeTime:
    """`sleep` returns at once unless `held`; then it waits for `let_go`."""

    def __init__(self, held: bool = False) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        self._go = asyncio.Event()
        if not held:
            self._go.set()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            self.slept.append(seconds)
            await self._go.wait()
            self.now += seconds
        await asyncio.sleep(0)

    def let_go(self) -> None:
        self._go.set()


def leap(seconds: float) -> None:
    """Has all timers of the running loop come so much sooner: a test says when a long time is over, instead of hoping
    that what has to come before the end of a short one does."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]
