"""Durations as clients write them: seconds, or as Go and Ollama do, "5m" or "1h30m"."""

import re
from math import inf, isfinite

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_UNIT = "(?:ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"[+-]?(?:{_NUMBER}|(?:{_NUMBER}{_UNIT})+)", re.ASCII)
_PIECE = re.compile(rf"({_NUMBER})({_UNIT}?)", re.ASCII)
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
_MAX_CHARS = 64


def keep_alive_seconds(value: str | float | None, field: str) -> float | None:
    """None where nothing was said; what is negative stands for ever, which is `inf`. Raises `RequestError`."""
    if value is None:
        return None
    seconds = _of_text(value, field) if isinstance(value, str) else float(value)
    return inf if seconds < 0 or not isfinite(seconds) else seconds


def _of_text(text: str, field: str) -> float:
    text = text.strip()
    if len(text) > _MAX_CHARS or not _DURATION.fullmatch(text):
        from shimmy.core.errors import RequestError

        raise RequestError(f'{field}: {text[:40]!r} is no duration, such as "5m" or 300', param=field)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in _PIECE.findall(text))
    return -seconds if text.startswith("-") else seconds
