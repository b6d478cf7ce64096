"""A blob that is not whole yet: its bytes at their places, and a journal of the chunks that have arrived, each with a
checksum, so that whoever goes on with it knows what is really there. It knows nothing of where bytes come from.
"""

import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from threading import Condition, Lock

from shimmy.store.sha256 import sha256

_JOURNAL = ".chunks"
_RECORD_BYTES = 18
_FLAGS = (
    os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
)


def num_arrived(path: str) -> int:
    """How many chunks the journal of the blob growing at `path` has, for whoever only watches."""
    try:
        return max(0, os.stat(path + _JOURNAL).st_size // _RECORD_BYTES - 1)
    except OSError:
        return 0


def forget(path: str) -> None:
    """To be called after the blob that grew at `path` was published, by whoever finds it so: who published it may have
    been killed before that."""
    with suppress(FileNotFoundError):
        os.unlink(path + _JOURNAL)


# Windows has one position in a file for all threads.
_position = Lock()


class Partial:
    """For one process, which holds the blob's lock, and any number of its threads. Raises `OSError`.

    What a journal says is not believed before `check` has read the chunk.
    """

    def __init__(self, path: str, size: int, chunk_bytes: int) -> None:
        self.path = path
        self.size = size
        self.chunk_bytes = chunk_bytes
        self.num_chunks = -(-size // chunk_bytes)
        self.arrived: set[int] = set()
        self.changed = Condition()
        self._is_open = True
        self._data = os.open(path, _FLAGS, 0o644)
        try:
            self._journal = os.open(path + _JOURNAL, _FLAGS | os.O_APPEND, 0o644)
        except BaseException:
            os.close(self._data)
            raise

    def length(self, chunk: int) -> int:
        return min(self.chunk_bytes, self.size - chunk * self.chunk_bytes)

    @property
    def num_bytes(self) -> int:
        """That have arrived in whole chunks. The last one may be shorter than the others."""
        last = self.num_chunks - 1
        missing = self.chunk_bytes - self.length(last) if last in self.arrived else 0
        return len(self.arrived) * self.chunk_bytes - missing

    def check(self, stop: Callable[[], None]) -> None:
        """Reads what an earlier process left, and takes what is sound of it. `stop` raises to give up."""
        head = _record(self.size & 0xFFFFFFFF, self.chunk_bytes)
        said = _read_at(self._journal, _RECORD_BYTES * (self.num_chunks * 2 + 2), 0)
        records = [said[at : at + _RECORD_BYTES] for at in range(0, len(said), _RECORD_BYTES)]
        sound: dict[int, bytes] = {}
        if records[:1] == [head] and os.fstat(self._data).st_size == self.size:
            for record in records[1:]:
                stop()
                chunk = _chunk_of(record)
                if chunk is not None and chunk < self.num_chunks and record == _record(chunk, self._checksum(chunk)):
                    sound[chunk] = record
        if said != head + b"".join(sound.values()):
            # From here on as if nothing had been wrong.
            os.ftruncate(self._journal, 0)
            os.write(self._journal, head + b"".join(sound.values()))
        os.ftruncate(self._data, self.size)
        self.arrived = set(sound)

    def write(self, offset: int, piece: memoryview) -> None:
        while piece:
            written = _write_at(self._data, piece, offset)
            offset, piece = offset + written, piece[written:]

    def finish(self, chunk: int, checksum: int) -> None:
        """A chunk has been written whole; `checksum` is its CRC-32."""
        with self.changed:
            os.write(self._journal, _record(chunk, checksum))
            self.arrived.add(chunk)
            self.changed.notify_all()

    def read(self, chunk: int) -> bytes:
        return _read_at(self._data, self.length(chunk), chunk * self.chunk_bytes)

    def discard(self) -> None:
        """Nothing of it is of use."""
        self.close()
        os.unlink(self.path + _JOURNAL)
        os.unlink(self.path)

    def settle(self) -> None:
        """To be called before it is closed and published."""
        os.fsync(self._data)

    def close(self) -> None:
        """May be called again. Windows renames and removes nothing that is open."""
        if self._is_open:
            self._is_open = False
            os.close(self._data)
            os.close(self._journal)

    def _checksum(self, chunk: int) -> int:
        return zlib.crc32(self.read(chunk))


class Follower:
    """Hashes a partial blob from its beginning on, as far as it has arrived."""

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self._hash = sha256()
        self.num_hashed = 0

    def advance(self) -> bool:
        """By one chunk, if that has arrived; whether it had."""
        if self.num_hashed not in self._partial.arrived:
            return False
        self._hash.update(self._partial.read(self.num_hashed))
        self.num_hashed += 1
        return True

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _record(number: int, checksum: int) -> bytes:
    return b"%08x %08x\n" % (number, checksum)


def _chunk_of(record: bytes) -> int | None:
    try:
        return int(record[:8], 16) if len(record) == _RECORD_BYTES else None
    except ValueError:
        return None


def _read_at(descriptor: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


def _write_at(descriptor: int, piece: memoryview, offset: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, piece, offset)
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, piece)
