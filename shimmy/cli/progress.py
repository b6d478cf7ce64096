"""The bar that shows on a terminal how far a model has been loaded, or something else been done. Elsewhere nothing is
shown."""

import sys
from typing import TextIO

_BAR_WIDTH = 24
_ERASE_LINE = "\r\x1b[K"


class LoadingBar:
    """Called with a model's name and the fraction loaded; leaves an empty line when that reaches 1."""

    def __init__(self, stream: TextIO | None = None, action: str = "loading") -> None:
        self._action = action
        self._stream = stream or sys.stderr
        self._shows = self._stream.isatty()
        self._shown = ""

    def __call__(self, model_id: str, fraction: float) -> None:
        if fraction >= 1:
            self.clear()
        elif self._shows:
            self._draw(_line(self._action, model_id, fraction))

    def clear(self) -> None:
        """To be called when loading ended, however it did, before anything else is written."""
        if self._shown:
            self._draw("")

    def _draw(self, line: str) -> None:
        if line != self._shown:
            self._shown = line
            self._stream.write(f"{_ERASE_LINE}{line}\r")
            self._stream.flush()


def _line(action: str, model_id: str, fraction: float) -> str:
    import shutil

    done = int(fraction * _BAR_WIDTH)
    bar = "#" * done + "-" * (_BAR_WIDTH - done)
    line = f"{action} [{bar}] {int(fraction * 100):3} % {model_id}"
    return line[: shutil.get_terminal_size().columns - 1]
