"""What decides whether a state can be exchanged for another: the model, the compiled engine, the kind of context."""

import os
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import NamedTuple

import msgspec

_EDGE_BYTES = 1 << 20
_NUM_SAMPLES = 1024
_SAMPLE_BYTES = 4096


class Stamp(NamedTuple):
    """What the file system says about one file; times in nanoseconds."""

    device: int
    inode: int
    size: int
    modified_at: int
    changed_at: int


class FileChanged(OSError):
    """A file is no longer the one that was observed."""


def observe(paths: Iterable[str]) -> dict[str, Stamp]:
    """To be called before a model is loaded from these files. Raises `OSError`."""
    return {path: _stamp(os.stat(path)) for path in paths}


def identity(
    model: Mapping[str, Stamp],
    libraries: Iterable[str | os.PathLike[str]],
    context: Mapping[str, str | int | float | bool],
) -> bytes:
    """32 bytes for the model in these files, the native libraries' content and what sets the context up.

    Of each model file it takes the size, the time of modification, the first and the last MiB (the hyperparameters, the
    end of the weights) and 1024 samples from between. That survives restarts, and copies that keep the time, whatever
    the path. A replaced file differs: to be taken for the old one it would have to agree in size, in time to the
    nanosecond and in every sample, while a model that was trained further differs in nearly all of its weights. Hashing
    all of it would cost seconds at each load.

    The stamps are from before the load: a file replaced since then is `FileChanged`, for nobody knows which of the two
    was loaded. Also raises other `OSError`s.
    """
    state = blake2b(digest_size=32, person=b"shimmy-identity")
    state.update(msgspec.msgpack.encode([os.uname().machine, context], order="deterministic"))
    for path in libraries:
        with open(path, "rb", buffering=0) as file:
            state.update(blake2b(file.read()).digest())
    for path, stamp in model.items():
        state.update(fingerprint(path, stamp))
    return state.digest()


def fingerprint(path: str, stamp: Stamp) -> bytes:
    """What `identity` takes of one file. Raises `FileChanged` and other `OSError`s."""
    state = blake2b(f"{stamp.size} {stamp.modified_at}".encode())
    with open(path, "rb", buffering=0) as file:
        for offset, size in _samples(stamp.size):
            state.update(os.pread(file.fileno(), size, offset))
        if _stamp(os.fstat(file.fileno())) != stamp:
            raise FileChanged(f"{path} has changed since it was loaded")
    return state.digest()


def _samples(size: int) -> Iterable[tuple[int, int]]:
    """Offsets and sizes."""
    yield 0, _EDGE_BYTES
    yield max(0, size - _EDGE_BYTES), _EDGE_BYTES
    step = max(1, (size - 2 * _EDGE_BYTES) // _NUM_SAMPLES)
    if size > 2 * _EDGE_BYTES:
        for offset in range(_EDGE_BYTES, size - _EDGE_BYTES, step):
            yield offset, min(_SAMPLE_BYTES, step)


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
