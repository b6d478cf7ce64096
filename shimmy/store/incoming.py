"""A blob that somebody sends, in order and from its beginning: kept under a name of its own until its digest is known
to be right. It knows nothing of who sends it."""

import os
import shutil
from contextlib import suppress
from typing import BinaryIO

from shimmy.core.errors import RequestError, StoreFull
from shimmy.store.folder import Store, as_store_failure
from shimmy.store.sha256 import sha256

_ROOM_BYTES = 16 << 20


class Incoming:
    """One blob, for one thread at a time. Raises `StoreFailed`, of which `StoreFull` is one."""

    def __init__(self, store: Store, digest: str) -> None:
        """`digest` is 64 hex digits."""
        self._store = store
        self._digest = digest
        self._hash = sha256()
        self._path = f"{store.partial(digest)}.{os.urandom(8).hex()}"
        store.make()
        with as_store_failure(store.root):
            self._file: BinaryIO = open(self._path, "xb")

    def write(self, piece: bytes) -> None:
        free = shutil.disk_usage(self._store.root).free
        if free < len(piece) + _ROOM_BYTES:
            raise StoreFull(f"the disk with {self._store.root} is full", needed_bytes=len(piece), free_bytes=free)
        with as_store_failure(self._store.root):
            self._file.write(piece)
        self._hash.update(piece)

    def finish(self) -> None:
        """The blob is in the store. Raises `RequestError` where it is another one, `Busy` where it is being pulled."""
        found = self._hash.hexdigest()
        if found != self._digest:
            raise RequestError(f"what came has the digest sha256:{found}, not sha256:{self._digest}", param="digest")
        with as_store_failure(self._store.root):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._store.take_in(self._path, self._digest)

    def close(self) -> None:
        """To be called however it ended."""
        self._file.close()
        with suppress(OSError):
            os.unlink(self._path)
