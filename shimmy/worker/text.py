"""Turns one sequence's token pieces into text: whole characters, cut at the first stop string. Knows no tokens."""

import codecs
from collections.abc import Sequence

_new_decoder = codecs.getincrementaldecoder("utf-8")


class TextStream:
    """Holds back bytes of an unfinished character and text that may yet become a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._decode = _new_decoder("replace").decode
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, piece: bytes) -> tuple[str, str | None]:
        """Takes a token's bytes; returns the text that is safe to send and the stop string that was reached, if any."""
        text = self._decode(piece)
        if not self._stops:
            return text, None
        text = self._held + text
        self._held = ""
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            return text[:at], stop
        safe = len(text) - self._overlap(text)
        self._held = text[safe:]
        return text[:safe], None

    def flush(self) -> str:
        """What was held back for a stop string that never came. Bytes of an unfinished character are dropped."""
        held, self._held = self._held, ""
        return held

    def _overlap(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
