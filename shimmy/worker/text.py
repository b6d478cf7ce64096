"""Turns one sequence's token pieces into text: whole characters, cut at the first stop string. Knows no tokens."""

import codecs
from collections.abc import Sequence

_new_decoder = codecs.getincrementaldecoder("utf-8")


class StopScan:
    """Looks for stop strings; holds back text that may yet become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self.held = ""
        # Characters that are held back, or came with a stop string and never leave.
        self.num_held = 0
        self.is_reached = False

    def push(self, text: str) -> tuple[str, str | None]:
        """The text that is safe to send and the stop string that was reached, if any."""
        if not self._stops:
            return text, None
        text = self.held + text
        self.held = ""
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            self.is_reached = True
            self.num_held = len(text) - at
            return text[:at], stop
        safe = len(text) - self._overlap(text)
        self.held = text[safe:]
        self.num_held = len(self.held)
        return text[:safe], None

    def flush(self) -> str:
        """What was held back for a stop string that never came."""
        held, self.held = self.held, ""
        if not self.is_reached:
            self.num_held = 0
        return held

    def _overlap(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


class TextStream:
    """Holds back bytes of an unfinished character, too."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._decode = _new_decoder("replace").decode
        self._scan = StopScan(stops) if any(stops) else None

    def push(self, piece: bytes) -> tuple[str, str | None]:
        """Takes a token's bytes; returns the text that is safe to send and the stop string that was reached, if any."""
        text = self._decode(piece)
        return (text, None) if self._scan is None else self._scan.push(text)

    @property
    def held(self) -> str:
        """What is held back for a stop string that may come."""
        return "" if self._scan is None else self._scan.held

    def flush(self) -> str:
        """What was held back for a stop string that never came. Bytes of an unfinished character are dropped."""
        return "" if self._scan is None else self._scan.flush()
