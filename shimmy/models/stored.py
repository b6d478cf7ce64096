"""Models of Shimmy's own store: those that were pulled, and those that were imported and lie elsewhere. Its format is
shimmy/store's; that is imported only where there is a store."""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from shimmy.core.modelfile import MEDIA_TYPE, Layer, kind_of, read_own
from shimmy.models.folders import Found
from shimmy.models.names import printable
from shimmy.store.place import MANIFESTS, store_path

if TYPE_CHECKING:
    from shimmy.store.folder import Store
    from shimmy.store.manifests import Manifest, Part


class StoreSource:
    named = False
    label = "Shimmy's store"
    depth = 1

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    @property
    def place(self) -> str:
        """Where models appear and vanish; their bytes are beside it."""
        return os.path.join(store_path(self._environ), MANIFESTS)

    def find(self) -> Iterator[Found]:
        if not os.path.isdir(self.place):
            return
        from shimmy.store.folder import Store

        store = Store(store_path(self._environ))
        for name, manifest, trouble in store.listed():
            if manifest is None:
                yield Found(printable(name), (), f"its manifest cannot be read: {trouble}")
                continue
            yield _found(store, manifest)


def _found(store: "Store", manifest: "Manifest") -> Found:
    parts = (*manifest.parts, *manifest.layers)
    paths = tuple(part.path or store.blob(part.sha256 or "") for part in parts)
    for part, path in zip(parts, paths, strict=True):
        if reason := _trouble(part, path):
            return Found(manifest.name, (), reason)
    num_weights = len(manifest.parts)
    kinds = [(kind_of(MEDIA_TYPE + part.name), path) for part, path in zip(parts, paths, strict=True)][num_weights:]
    try:
        own = read_own(Layer(kind, path) for kind, path in kinds if kind)
    except ValueError as error:
        return Found(manifest.name, (), str(error))
    is_whole = all(part.path is None for part in parts)
    return Found(manifest.name, paths[:num_weights], aliases=manifest.aliases, is_whole=is_whole, own=own)


def _trouble(part: "Part", path: str) -> str | None:
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{printable(path)}: {error.strerror}"
    if status.st_size != part.size or (part.mtime_ns is not None and status.st_mtime_ns != part.mtime_ns):
        return f"{printable(path)} is another one than it was; import or pull it again"
    return None
