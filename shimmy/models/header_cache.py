"""What headers said, kept on disk, so that a start need not read them again. Only this user can read or change it, and
every doubt about it is a miss: then headers are read as if there were none.
"""

import logging
import os
import stat
import zlib
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from shimmy import __version__
from shimmy.models.facts import Facts, Inspection
from shimmy.models.listing import Sighting

MAX_ENTRIES = 16_384
MAX_BYTES = 32 << 20
# To be changed with what is made of a header.
_FORMAT = 1
_OTHERS = 0o077

log = logging.getLogger("shimmy.models")

Entries = dict[Sighting, Inspection]


class _Content(msgspec.Struct, frozen=True, array_like=True):
    made_by: str
    entries: list[tuple[Sighting, Inspection]]


class HeaderCache:
    """One file. Several programs may use it at once: it is replaced as a whole, and the last one wins."""

    def __init__(self, path: str) -> None:
        self._path = path

    def read(self) -> Entries:
        """Never raises; what is not to be trusted is not there."""
        try:
            data = self._bytes()
            content = msgspec.msgpack.decode(data[4:], type=_Content)
        except (OSError, ValueError) as error:
            if not isinstance(error, FileNotFoundError):
                log.debug("the cached headers in %s are not used: %s", self._path, error)
            return {}
        return dict(content.entries) if content.made_by == _made_by() else {}

    def add(self, read: Iterable[tuple[Sighting, Inspection]]) -> None:
        """Keeps these as well, and forgets the oldest where they are too many. What goes wrong is only logged."""
        by_paths = {sighting.paths: (sighting, inspection) for sighting, inspection in self.read().items()}
        for sighting, inspection in read:
            by_paths.pop(sighting.paths, None)
            by_paths[sighting.paths] = sighting, inspection
        try:
            self._replace(_encoded(list(by_paths.values())[-MAX_ENTRIES:]))
        except OSError as error:
            log.debug("headers are not kept: %s: %s", self._path, error.strerror)

    def _bytes(self) -> bytes:
        extra = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        with open(self._path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | extra)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_BYTES:
                raise ValueError("not a file of this program")
            if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & _OTHERS):
                raise ValueError("others could have written it")
            data = file.read(MAX_BYTES + 1)
        if len(data) != status.st_size or data[:4] != _checksum(data[4:]):
            raise ValueError("damaged")
        return data

    def _replace(self, data: bytes) -> None:
        """The new file has one name for all who write, so that no more than one is ever left behind. Two who write at
        once can mix theirs up; the checksum says so."""
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        fresh = f"{self._path}.new"
        with suppress(FileNotFoundError):
            os.unlink(fresh)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with open(os.open(fresh, flags, 0o600), "wb", buffering=0) as file:
            file.write(data)
        os.replace(fresh, self._path)


def _encoded(entries: list[tuple[Sighting, Inspection]]) -> bytes:
    """Without the older half as often as it takes to be short enough."""
    body = msgspec.msgpack.encode(_Content(_made_by(), entries))
    if len(body) + 4 > MAX_BYTES:
        return _encoded(entries[len(entries) // 2 + 1 :])
    return _checksum(body) + body


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _made_by() -> str:
    """Another version may make something else of a header, or say it in other fields."""
    fields = [*Facts.__struct_fields__, *Inspection.__struct_fields__, *Sighting.__struct_fields__]
    return f"{_FORMAT} {__version__} {' '.join(fields)}"
