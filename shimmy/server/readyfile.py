"""The file that tells scripts where the server answers; it exists only while it does."""

import os

import msgspec

from shimmy import __version__


class ReadyFile:
    """Without a path there is none, and nothing happens."""

    def __init__(self, path: str | None) -> None:
        self._path = path
        self._written = False

    def write(self, url: str) -> None:
        """All of it or nothing. Raises OSError."""
        if self._path is None:
            return
        content = msgspec.json.encode({"url": url, "pid": os.getpid(), "version": __version__})
        unfinished = f"{self._path}.{os.getpid()}.tmp"
        with open(unfinished, "wb") as file:
            file.write(content + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, self._path)
        self._written = True

    def remove(self) -> None:
        if self._written and self._path is not None:
            try:
                os.unlink(self._path)
            except OSError:
                pass
