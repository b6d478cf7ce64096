"""Where states of prompts lie on disk, and the secret that keeps those of different API keys apart there. What is in
the files is the workers' business (shimmy/worker/disk).
"""

import logging
import os
import stat
from contextlib import suppress
from pathlib import Path

from shimmy.core.caches import roots
from shimmy.core.ipc import DiskCache
from shimmy.core.settings import Settings

log = logging.getLogger(__name__)

_SALT = "tenants.salt"
_SALT_BYTES = 32
_OTHERS = 0o077


def disk_cache(settings: Settings) -> DiskCache | None:
    """What workers are told; None when it is off."""
    if not settings.kv_cache_bytes:
        return None
    return DiskCache(os.fsencode(_folder()), settings.kv_cache_bytes, settings.kv_cache_key)


def tenant_salt(settings: Settings) -> bytes | None:
    """What tenants' names are made with, besides their API keys; None where it need not outlive this process.

    A tenant's name is the namespace of its states, so with a disk cache it has to be the same after a restart, and no
    other tenant may be able to make it. Hence it is a digest of the API key and of a random number that only this user
    can read. Neither a key nor a digest without that number is ever written: who has the salt as well can still try
    keys that are easily guessed, which is why what is on disk can be sealed with a key file.
    """
    if not settings.kv_cache_bytes or not settings.api_keys:
        return None
    path = _folder() / _SALT
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _read(path) or _made(path)
    except OSError as error:
        log.warning("what is computed is not found again after a restart: %s: %s", path, error.strerror or error)
        return None


def _folder() -> Path:
    return next(roots(os.environ)) / "states"


def _read(path: Path) -> bytes | None:
    """None where there is none. One that is damaged, or that others could read, goes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or not stat.S_ISREG(status.st_mode):
            raise PermissionError("is no file of this user")
        salt = file.read(_SALT_BYTES + 1)
    if len(salt) == _SALT_BYTES and not status.st_mode & _OTHERS:
        return salt
    path.unlink(missing_ok=True)
    return None


def _made(path: Path) -> bytes:
    """Of servers that start at once, all use the one that was there first."""
    fresh = path.with_name(f"{_SALT}.{os.urandom(8).hex()}")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            file.write(os.urandom(_SALT_BYTES))
            os.fsync(descriptor)
        with suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    salt = _read(path)
    if salt is None:
        raise OSError("it changes")
    return salt
