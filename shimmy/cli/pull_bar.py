"""How far a pull is, how fast it is and how long it will take, on one line of a terminal."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from shimmy.cli.output import decimal_bytes
from shimmy.cli.progress import StatusLine, bar
from shimmy.models.names import printable

if TYPE_CHECKING:
    from shimmy.core.pulling import Progress

# What the rate is a mean of.
_WINDOW_SECONDS = 5.0


class PullBar(StatusLine):
    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._blob: str | None = None
        self._samples: deque[tuple[float, int]] = deque()

    def __call__(self, progress: "Progress") -> None:
        if progress.total is None or progress.completed is None:
            return self.show(progress.status)
        if progress.digest != self._blob:
            self._blob = progress.digest
            self._samples.clear()
        rate = self._rate(progress.completed)
        size = f"{decimal_bytes(progress.completed)} of {decimal_bytes(progress.total)}"
        # Which digest is pulled is nothing to people; what is waited for is.
        status = "pulling" if progress.status.startswith("pulling") else progress.status
        line = f"{status} {bar(progress.completed / progress.total)} {size}"
        if rate > 0:
            line += f"  {decimal_bytes(int(rate))}/s  {duration((progress.total - progress.completed) / rate)}"
        # What the hub calls the file may be anything.
        self.show(f"{line}  {printable(progress.file or '')}")

    def _rate(self, completed: int) -> float:
        """Bytes a second."""
        now = self._clock()
        self._samples.append((now, completed))
        while now - self._samples[0][0] > _WINDOW_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        since, before = self._samples[0]
        return (completed - before) / (now - since) if now > since else 0.0


def duration(seconds: float) -> str:
    """`48s`, `5m03s`, `2h07m`."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"
