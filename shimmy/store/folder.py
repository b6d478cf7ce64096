"""The store as folders: `blobs` by digest, `manifests` by name, `partial` for what is not whole. Everything in them
appears by rename, so that whatever kills a process leaves a store that can be used. No path is made from anything but a
checked digest or an escaped name.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress

import msgspec

from shimmy.core.errors import Busy, ModelNotFound, StoreFailed, StoreFull
from shimmy.core.ollama_names import DEFAULT_TAG
from shimmy.store.locks import locked, locked_if_free
from shimmy.store.manifests import MAX_BYTES, Manifest, decode, encode, file_name, name_of
from shimmy.store.names import is_hex_digest, local_name
from shimmy.store.place import BLOBS, MANIFESTS, PARTIAL
from shimmy.store.workplace import Workplace, sweep_workplaces

# What nobody went on with for as long, nobody will.
ABANDONED_SECONDS = 14 * 86_400
_BLOB = "sha256-"
_TURN_SECONDS = 0.05
# A pull holds what it brings for as long as that takes. Whoever is not one does not wait for it.
_PATIENCE_SECONDS = 10.0
_RETRY_SECONDS = 30
_LOCK = ".lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Store:
    """One folder, shared by any number of processes. Raises `StoreFailed` where nothing else is said."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._blobs, self._manifests, self._partial = (os.path.join(root, each) for each in (BLOBS, MANIFESTS, PARTIAL))

    def make(self) -> None:
        try:
            for folder in (self._blobs, self._manifests, self._partial):
                os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise StoreFailed(f"cannot make the store {self.root}: {error.strerror}") from None

    def blob(self, digest: str) -> str:
        return os.path.join(self._blobs, _BLOB + _checked(digest))

    def partial(self, digest: str) -> str:
        """Where a blob grows."""
        return os.path.join(self._partial, _BLOB + _checked(digest))

    def lock(self, digest: str) -> str:
        """The file that whoever makes or removes this blob has locked."""
        return self.partial(digest) + _LOCK

    def has(self, digest: str, size: int) -> bool:
        """Whether the blob is there. It was verified before it got its name."""
        return self.size(digest) == size

    def size(self, digest: str) -> int | None:
        """Of a blob, in bytes; None where there is none."""
        try:
            return os.stat(self.blob(digest)).st_size
        except OSError:
            return None

    def publish(self, digest: str) -> None:
        """Makes a partial file that was verified the blob. Raises `OSError`."""
        os.replace(self.partial(digest), self.blob(digest))
        sync_folder(self._blobs)

    def keep(self, manifest: Manifest) -> Manifest:
        """Puts the model in the place of the one of its name, if there is one, whose other names it takes over and of
        which nothing is left then that nobody else needs. Its names are no longer those of others. Returns it with
        all its names. Raises `OSError`."""
        old = None
        with suppress(OSError, ValueError):
            old = self._read(file_name(manifest.name))
        names = dict.fromkeys([*manifest.aliases, *(old.aliases if old else ())])
        manifest = msgspec.structs.replace(manifest, aliases=tuple(names))
        taken = {alias.lower() for alias in manifest.aliases}
        for other in list(self.manifests()):
            left = tuple(alias for alias in other.aliases if alias.lower() not in taken)
            if left != other.aliases and other.name.lower() != manifest.name.lower():
                self._write(msgspec.structs.replace(other, aliases=left))
        self._write(manifest)
        for digest in old.digests - manifest.digests if old else ():
            self._remove_blob(digest)
        return manifest

    def _write(self, manifest: Manifest) -> None:
        partial = os.path.join(self._manifests, f".{os.urandom(8).hex()}")
        with _unlinked_on_failure(partial):
            _write_new(partial, encode(manifest))
            os.replace(partial, self._manifest_path(manifest.name))
        sync_folder(self._manifests)

    def listed(self) -> Iterator[tuple[str, Manifest | None, str]]:
        """Every model: its name, its manifest, and where that cannot be read, why not."""
        for name in _names(self._manifests):
            if not name.endswith(".json") or name.startswith("."):
                continue
            try:
                manifest = self._read(name)
                yield manifest.name, manifest, ""
            except FileNotFoundError:
                pass
            except OSError as error:
                yield name_of(name), None, error.strerror or str(error)
            except ValueError as error:
                yield name_of(name), None, str(error)

    def manifests(self) -> Iterator[Manifest]:
        """Those that can be read."""
        return (manifest for _, manifest, _ in self.listed() if manifest is not None)

    def copy(self, source: Manifest, name: str) -> Manifest:
        """The same model under a further name, in the place of one that has it. Raises `RequestError` for what is no
        name, `ModelNotFound` where the model has gone meanwhile."""
        return self.adopt(msgspec.structs.replace(source, name=local_name(name), aliases=()))

    def adopt(self, manifest: Manifest) -> Manifest:
        """Keeps a model whose blobs are here already. Raises `ModelNotFound` where one has gone meanwhile, `Busy` where
        a pull is at work on one."""
        self.make()
        with as_store_failure(self.root), ExitStack() as locks:
            # In the order in which pulls take them.
            for digest in sorted(manifest.digests):
                locks.enter_context(self._locked(digest))
            if not all(os.path.exists(self.blob(digest)) for digest in manifest.digests):
                raise ModelNotFound(f"the files of {manifest.name} have gone from {self.root}", param="model")
            return self.keep(manifest)

    def workplace(self) -> Workplace:
        """Where files are made that are to be blobs."""
        self.make()
        # What a killed process left there may be what takes the room that is needed now.
        sweep_workplaces(self._partial)
        with as_store_failure(self.root):
            return Workplace(self._partial)

    def take_in(self, path: str, digest: str) -> None:
        """Makes the file at `path`, which is of this digest and in the same file system, the blob. Raises `OSError`,
        `Busy`."""
        with self._locked(digest):
            os.replace(path, self.blob(digest))
            sync_folder(self._blobs)

    def put(self, content: bytes) -> str:
        """Its digest; it is a blob from now on. Raises `OSError`, `Busy`."""
        from hashlib import sha256

        digest = sha256(content).hexdigest()
        if not self.has(digest, len(content)):
            partial = f"{self.partial(digest)}.{os.urandom(8).hex()}"
            with _unlinked_on_failure(partial):
                _write_new(partial, content)
                self.take_in(partial, digest)
        return digest

    def _locked(self, digest: str) -> AbstractContextManager[None]:
        """Once nobody else has it locked. Raises `Busy` where somebody goes on having it."""
        gives_up_at = time.monotonic() + _PATIENCE_SECONDS

        def wait() -> None:
            if time.monotonic() >= gives_up_at:
                raise Busy(f"sha256:{digest} is being pulled; try again later", retry_after_seconds=_RETRY_SECONDS)
            time.sleep(_TURN_SECONDS)

        return locked(self.lock(digest), wait)

    def find(self, name: str) -> Manifest | None:
        """By its name, else by another name of it, whatever the spelling, with `:latest` or without."""
        spellings = (name, f"{name}:{DEFAULT_TAG}", name.removesuffix(f":{DEFAULT_TAG}"))
        # In this order: the name itself before its variants.
        wanted = dict.fromkeys(each.lower() for each in spellings)
        for each in wanted:
            with suppress(OSError, ValueError):
                return self._read(file_name(each))
        found = (
            each for each in self.manifests() if not wanted.keys().isdisjoint(alias.lower() for alias in each.aliases)
        )
        return next(found, None)

    def remove(self, name: str) -> int:
        """The model and what nobody else needs of it. Returns how many bytes that made free; what a pull is at work on
        stays. What only a manifest needed that cannot be read is left to `sweep`. Raises `ModelNotFound`."""
        manifest = self.find(name)
        if manifest is None and self._remove_unreadable(name):
            return 0
        if manifest is None:
            raise ModelNotFound(f"there is no {name[:200]!r} in the store {self.root}", param="model")
        try:
            os.unlink(self._manifest_path(manifest.name))
        except OSError as error:
            raise StoreFailed(f"cannot remove {manifest.name}: {error.strerror}") from None
        return sum(map(self._remove_blob, manifest.digests))

    def knows(self, name: str) -> bool:
        """Whether `remove` has anything to remove."""
        return self.find(name) is not None or os.path.isfile(self._manifest_path(name))

    def _remove_unreadable(self, name: str) -> bool:
        try:
            os.unlink(self._manifest_path(name))
        except OSError:
            return False
        return True

    def sweep(self, now: float | None = None) -> None:
        """Removes what was begun and abandoned, and blobs of no model that are as old."""
        sweep_workplaces(self._partial)
        before = (time.time() if now is None else now) - ABANDONED_SECONDS
        needed = self._manifest_texts()
        for folder in (self._partial, self._blobs, self._manifests):
            for name in _names(folder):
                with suppress(OSError):
                    if os.lstat(os.path.join(folder, name)).st_mtime < before:
                        self._sweep_one(folder, name, needed)

    def _sweep_one(self, folder: str, name: str, needed: bytes) -> None:
        path = os.path.join(folder, name)
        digest = name.removeprefix(_BLOB).partition(".")[0]
        if folder == self._manifests:
            if name.startswith("."):
                os.unlink(path)
        elif folder == self._blobs:
            if is_hex_digest(digest) and digest.encode() not in needed:
                self._remove_blob(digest)
        elif is_hex_digest(digest):
            with locked_if_free(self.lock(digest)) as is_free:
                if is_free and not name.endswith(_LOCK):
                    os.unlink(path)

    def _remove_blob(self, digest: str) -> int:
        """Unless a model has it or a pull holds it, which looks for it under the same lock."""
        try:
            with locked_if_free(self.lock(digest)) as is_free:
                if not is_free or digest.encode() in self._manifest_texts():
                    return 0
                size = os.stat(self.blob(digest)).st_size
                os.unlink(self.blob(digest))
                return size
        except OSError:
            return 0

    def discard(self, digest: str) -> None:
        """A blob, unless a model has it or a pull is at work on it."""
        self._remove_blob(digest)

    def _manifest_texts(self) -> bytes:
        """All that name digests, those that this version of the program cannot make sense of included."""
        texts = []
        for name in _names(self._manifests):
            # Folders are of others, like file managers and network drives.
            with (
                suppress(FileNotFoundError, IsADirectoryError),
                open(os.path.join(self._manifests, name), "rb") as file,
            ):
                texts.append(file.read())
        return b"\n".join(texts)

    def _manifest_path(self, name: str) -> str:
        return os.path.join(self._manifests, file_name(name))

    def _read(self, name: str) -> Manifest:
        with open(os.path.join(self._manifests, name), "rb") as file:
            return decode(file.read(MAX_BYTES + 1))


@contextmanager
def as_store_failure(root: str, and_then: str = "") -> Iterator[None]:
    """Raises `StoreFull`, with what that means, or `StoreFailed` for an `OSError` within."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StoreFull(f"the disk with {root} is full{and_then}") from None
        raise StoreFailed(f"cannot write to the store {root}: {error.strerror or error}") from None


def _write_new(path: str, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _unlinked_on_failure(path: str) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def sync_folder(path: str) -> None:
    """So that a rename outlives a power cut, where folders can be opened."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checked(digest: str) -> str:
    if not is_hex_digest(digest):
        raise StoreFailed(f"{digest[:80]!r} is no digest")
    return digest


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
