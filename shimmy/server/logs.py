"""Where log lines go: to stderr, as text or JSON, and never at the price of a request.

A line that stderr would not take at once (closed, or a pipe that nobody reads) is dropped.
"""

import logging
import os
import select
import time
from contextlib import suppress
from functools import cache
from threading import RLock
from typing import Any

import msgspec

_STDERR = 2
_PIPE_BUF = 4096  # what a pipe that is ready takes without blocking
# Two threads must not ask at once whether there is room. What Python clears away meanwhile may have something to say.
_turn = RLock()


class StderrHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


class TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        return " ".join([super().formatMessage(record), *(f"{name}={_quoted(fields[name])}" for name in fields)])


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if record.getMessage():
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line | getattr(record, "fields", {})).decode()


def configure(log_format: str) -> None:
    """Send the log to stderr: all of ours from INFO on, warnings of everyone else."""
    handler = StderrHandler()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("shimmy").setLevel(logging.INFO)
    # Nobody is told where in the code a line comes from, nor of which thread and process: that took most of the time.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def say(text: str) -> None:
    """One message to the person at the terminal."""
    data = (text + "\n").encode("utf-8", "replace")
    with _turn, suppress(OSError):
        for start in range(0, len(data), _PIPE_BUF):
            if _takes_data(_STDERR):
                os.write(_STDERR, data[start : start + _PIPE_BUF])


def _takes_data(fd: int) -> bool:
    return not hasattr(select, "poll") or any(events & select.POLLOUT for _, events in _poll(fd).poll(0))


@cache
def _poll(fd: int) -> Any:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return poll


def _quoted(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and " " not in text and '"' not in text and "=" not in text
    return text if plain and text else msgspec.json.encode(text).decode()
