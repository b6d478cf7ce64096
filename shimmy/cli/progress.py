"""The line that shows on a terminal how far something is. Elsewhere nothing is shown."""

import sys
from typing import TextIO

_BAR_WIDTH = 24
_ERASE_LINE = "\r\x1b[K"


class StatusLine:
    """One line that changes, on stderr if nothing else is said."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self.shows = self._stream.isatty()
        self._shown = ""

    def show(self, line: str) -> None:
        """As much of it as fits."""
        if self.shows:
            import shutil

            self._draw(line[: shutil.get_terminal_size().columns - 1])

    def clear(self) -> None:
        """To be called when it is over, however it ended, before anything else is written."""
        if self._shown:
            self._draw("")

    def _draw(self, line: str) -> None:
        if line != self._shown:
            self._shown = line
            self._stream.write(f"{_ERASE_LINE}{line}\r")
            self._stream.flush()


class LoadingBar(StatusLine):
    """Called with a model's name and the fraction loaded; leaves an empty line when that reaches 1."""

    def __init__(self, stream: TextIO | None = None, action: str = "loading") -> None:
        super().__init__(stream)
        self._action = action

    def __call__(self, model_id: str, fraction: float) -> None:
        if fraction >= 1:
            self.clear()
        elif self.shows:
            self.show(f"{self._action} {bar(fraction)} {model_id}")


def bar(fraction: float) -> str:
    done = int(fraction * _BAR_WIDTH)
    return f"[{'#' * done}{'-' * (_BAR_WIDTH - done)}] {int(fraction * 100):3} %"
