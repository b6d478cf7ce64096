"""Models that stay where they are: a manifest that names their files instead of blobs. It does not look for any."""

import os
import re
from collections.abc import Iterable, Sequence

import msgspec

from shimmy.core.errors import StoreFailed
from shimmy.core.modelfile import Layer
from shimmy.store.manifests import Manifest, Part, Provenance
from shimmy.store.names import is_hex_digest, local_name, plain_name
from shimmy.store.pull import timestamp

_HUB_FOLDER = re.compile(r"models--(?P<owner>[^/\\]+?)--(?P<repository>[^/\\]+)")


def in_place(name: str, paths: Sequence[str], source: str, layers: Iterable[Layer] = ()) -> Manifest:
    """The model in these files, in the order of shards, under this name, with these layers. `source` says whose they
    are. Raises `RequestError` for what is no name, `StoreFailed` for files that cannot be read."""
    parts = tuple(map(_part, paths))
    beside = tuple(msgspec.structs.replace(_part(each.path), name=each.kind) for each in layers)
    return Manifest(local_name(name), parts, Provenance(source, timestamp(), _revision(paths[0])), layers=beside)


def repository_name(path: str, folder: str) -> str | None:
    """What a pull would call the file of a hub's cache, or of a folder with owners and repositories like LM Studio's;
    None where its path does not tell."""
    from shimmy.store.quantization import quantization_of

    below = os.path.relpath(path, folder).replace(os.sep, "/").split("/")
    if found := _HUB_FOLDER.fullmatch(below[0]):
        owner, repository = found["owner"], found["repository"]
    elif len(below) >= 3:
        owner, repository = below[:2]
    else:
        return None
    stem = os.path.splitext(below[-1])[0]
    tag = quantization_of(re.sub(r"-\d{5}-of-\d{5}$", "", stem)) or plain_name(stem)
    return f"hf.co/{plain_name(owner)}/{plain_name(repository)}:{tag}"


def _part(path: str) -> Part:
    try:
        status = os.stat(path)
    except OSError as error:
        raise StoreFailed(f"{path}: {error.strerror}") from None
    digest = _stated_digest(path)
    return Part(os.path.basename(path), status.st_size, digest, os.path.abspath(path), status.st_mtime_ns)


def _stated_digest(path: str) -> str | None:
    """What a store of blobs calls the file: Ollama's `sha256-HEX`, the hub's cache `blobs/HEX` behind a link."""
    name = os.path.basename(os.path.realpath(path)).removeprefix("sha256-")
    return name if is_hex_digest(name) else None


def _revision(path: str) -> str | None:
    """Of a hub's cache: `models--owner--name/snapshots/REVISION/file`."""
    folders = os.path.abspath(path).split(os.sep)
    at = next((at for at, each in enumerate(folders) if _HUB_FOLDER.fullmatch(each)), None)
    if at is None or folders[at + 1 : at + 2] != ["snapshots"] or len(folders) < at + 4:
        return None
    return folders[at + 2]
