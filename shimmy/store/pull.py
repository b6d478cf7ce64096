"""One pull, from a name to a model in the store. Blocks: it is for a thread of its own. What has arrived stays whatever
happens, and the next pull goes on from there."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, closing
from functools import partial

from shimmy.core.errors import DigestMismatch, PullFailed, StoreFull
from shimmy.core.pulling import SUCCESS, Progress
from shimmy.core.sizes import binary_size
from shimmy.hardware.memory import memory
from shimmy.store.download import PAUSE_SECONDS, Download, waiting
from shimmy.store.folder import Store, as_store_failure
from shimmy.store.hosts import Hosts, Url
from shimmy.store.http import Answer, Broken, Cancelled, Client, tls_context
from shimmy.store.locks import locked
from shimmy.store.manifests import Manifest, Part, Provenance
from shimmy.store.names import parse
from shimmy.store.partial import Partial, forget, num_arrived
from shimmy.store.quantization import RemoteFile
from shimmy.store.sources import Opener, Plan, plan

# What is not whole is brought again after an interruption.
CHUNK_BYTES = 4 << 20
# For manifests and directories, beside the model.
_ROOM_BYTES = 16 << 20
_TRIES = 3
_TURN_SECONDS = 0.05
# A model takes its file's size, and more for the context and for computing.
_MEMORY_SHARE = 0.8


class Pull:
    """`report` is called from the thread that runs it; `cancel` may be from any."""

    def __init__(self, store: Store, client: Client, report: Callable[[Progress], None]) -> None:
        self._store = store
        self._client = client
        self._report = report

    @classmethod
    def from_environ(cls, store: Store, environ: Mapping[str, str], report: Callable[[Progress], None]) -> "Pull":
        """Raises `RequestError` for variables that make no sense, `Unimplemented` without TLS."""
        return cls(store, Client(Hosts.from_environ(environ), tls_context(environ)), report)

    def cancel(self) -> None:
        """`run` ends soon, with `Cancelled`."""
        self._client.cancel()

    def run(self, name: str, revision: str | None = None) -> Manifest:
        """Raises the `ShimmyError` that says what is wrong, or `Cancelled`."""
        reference = parse(name)
        with as_store_failure(self._store.root, "; what has arrived is kept, and the next pull goes on from there"):
            self._store.make()
            self._store.sweep()
            self._report(Progress("pulling manifest"))
            found = self._retried(lambda: plan(self._client, reference, revision, fits_memory))
            # Two files may have the same content, and whoever locks a digest twice waits for himself.
            wanted = {file.sha256: (file, url) for file, url in (*found.files, *found.layers)}
            with ExitStack() as locks:
                # Always in one order: two pulls that want the same cannot wait for each other.
                for digest, (file, _) in sorted(wanted.items()):
                    locks.enter_context(locked(self._store.lock(digest), partial(self._wait, file)))
                self._check_room([file for file, _ in wanted.values()])
                for file, url in wanted.values():
                    self._bring(file, url, found.opener)
                self._report(Progress("writing manifest"))
                manifest = self._store.keep(_manifest(found))
        self._report(Progress(SUCCESS))
        return manifest

    def _bring(self, file: RemoteFile, url: Url, opener: Opener) -> None:
        note = self._noted(f"pulling {file.sha256[:12]}", file)
        place = self._store.partial(file.sha256)
        if self._store.has(file.sha256, file.size):
            forget(place)
            return note(file.size, "")
        with closing(Partial(place, file.size, CHUNK_BYTES)) as unfinished:
            unfinished.check(self._stop)
            try:
                Download(unfinished, file.sha256, _Blob(self._client, opener, url), note).run()
            except DigestMismatch:
                unfinished.discard()
                raise
            self._report(Progress("verifying sha256 digest"))
            unfinished.settle()
        self._store.publish(file.sha256)
        forget(place)

    def _noted(self, status: str, file: RemoteFile) -> Callable[[int, str], None]:
        """What reports how many bytes of it there are, with another status where one is given."""
        return lambda completed, other: self._report(
            Progress(other or status, file.sha256, file.path, file.size, completed)
        )

    def _wait(self, file: RemoteFile) -> None:
        """While another pull brings it."""
        self._noted("waiting for another pull", file)(self._num_there(file), "")
        self._stop()
        time.sleep(_TURN_SECONDS)

    def _num_there(self, file: RemoteFile) -> int:
        """Bytes, as far as its journal is to be believed."""
        return min(file.size, num_arrived(self._store.partial(file.sha256)) * CHUNK_BYTES)

    def _check_room(self, files: list[RemoteFile]) -> None:
        needed = _ROOM_BYTES
        for file in files:
            if not self._store.has(file.sha256, file.size):
                needed += file.size - self._num_there(file)
        free = shutil.disk_usage(self._store.root).free
        if free < needed:
            raise StoreFull(
                f"the pull needs {binary_size(needed)} more of the disk with {self._store.root}, and"
                f" {binary_size(free)} are free",
                needed_bytes=needed,
                free_bytes=free,
            )

    def _stop(self) -> None:
        if self._client.cancelled.is_set():
            raise Cancelled

    def _retried(self, ask: Callable[[], Plan]) -> Plan:
        num_failures = 0
        while True:
            try:
                return ask()
            except Broken as error:
                num_failures += 1
                if num_failures == _TRIES:
                    raise PullFailed(str(error)) from None
                self._pause(error, PAUSE_SECONDS * 2 ** (num_failures - 1))

    def _pause(self, error: Broken, seconds: float) -> None:
        if error.wait_seconds is None:
            self._client.cancelled.wait(seconds)
            return self._stop()
        until = time.monotonic() + error.wait_seconds
        while status := waiting(str(error), until):
            self._report(Progress(status))
            self._client.cancelled.wait(min(1.0, max(0.0, until - time.monotonic())))
            self._stop()


class _Blob:
    """One blob's requests."""

    def __init__(self, client: Client, opener: Opener, url: Url) -> None:
        self._client = client
        self._opener = opener
        self._url = url

    def open(self, headers: Mapping[str, str]) -> AbstractContextManager[Answer]:
        return self._opener.open(self._url, headers)

    def stop(self) -> None:
        if self._client.cancelled.is_set():
            raise Cancelled

    def cancel(self) -> None:
        self._client.cancel()


def fits_memory(size: int) -> bool:
    """Whether a model of so many bytes can be served on this machine, as far as that is known."""
    there = memory()
    return there is None or size <= there.total_bytes * _MEMORY_SHARE


def _manifest(found: Plan) -> Manifest:
    parts = tuple(Part(os.path.basename(file.path), file.size, file.sha256) for file, _ in found.files)
    origin = Provenance(found.source, timestamp(), found.revision, found.license)
    layers = tuple(Part(file.path, file.size, file.sha256) for file, _ in found.layers)
    return Manifest(found.name, parts, origin, found.aliases, layers)


def timestamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
