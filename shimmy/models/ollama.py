"""Models in an Ollama store: `manifests/<host>/<namespace>/<model>/<tag>` name the blobs. Whatever a manifest says is
data from a registry, so a path is made from nothing but a digest's 64 hex digits."""

import os
import re
from collections.abc import Iterator

import msgspec

from shimmy.core.modelfile import MAX_LAYERS, MEDIA_TYPE, Own, kind_of, read_own
from shimmy.core.modelfile import Layer as OwnLayer
from shimmy.models.folders import Found, regular_files
from shimmy.models.names import name_in_ollama

MAX_MANIFEST_BYTES = 1 << 20
_LEVELS = 4
_DIGEST = re.compile(r"sha256:(?P<hex>[0-9a-f]{64})")
_MODEL = f"{MEDIA_TYPE}model"


class Layer(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str


class Manifest(msgspec.Struct):
    layers: list[Layer]


class OllamaStore:
    named = False
    label = "Ollama store"
    depth = 1 + _LEVELS

    def __init__(self, path: str) -> None:
        self.place = os.path.abspath(os.path.expanduser(path))

    def find(self) -> Iterator[Found]:
        manifests = os.path.join(self.place, "manifests")
        for path in regular_files(manifests, _LEVELS):
            parts = os.path.relpath(path, manifests).split(os.sep)
            if len(parts) == _LEVELS:
                found = self._model(name_in_ollama(*parts), path)
                if found:
                    yield found

    def _model(self, name: str, manifest_path: str) -> Found | None:
        """None for what has no weights on this machine."""
        try:
            layers = _read(manifest_path).layers
        except (OSError, ValueError, RecursionError) as error:
            return Found(name, (), f"its manifest cannot be read: {error}")
        digests = [layer.digest for layer in layers if layer.media_type == _MODEL]
        if not digests:
            return None
        try:
            return Found(name, (self._blob(digests[0]),), own=self._own(layers))
        except ValueError as error:
            return Found(name, (), str(error))

    def _own(self, layers: list[Layer]) -> Own:
        """Raises `ValueError`."""
        kinds = [(kind, layer.digest) for layer in layers if (kind := kind_of(layer.media_type))]
        if len(kinds) > MAX_LAYERS:
            raise ValueError(f"its manifest has more than {MAX_LAYERS} layers")
        return read_own(OwnLayer(kind, self._blob(digest)) for kind, digest in kinds)

    def _blob(self, named: str) -> str:
        """Its path. Raises `ValueError` for what is no digest, or of no file."""
        digest = _DIGEST.fullmatch(named)
        if not digest:
            raise ValueError(f"its manifest names no sha256 digest but {named[:80]!r}")
        blob = os.path.join(self.place, "blobs", f"sha256-{digest['hex']}")
        if not os.path.isfile(blob):
            raise ValueError(f"the blob sha256-{digest['hex']} is missing")
        return blob


def _read(path: str) -> Manifest:
    """Raises OSError or ValueError (msgspec's errors are such)."""
    with open(path, "rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ValueError(f"it is longer than {MAX_MANIFEST_BYTES} bytes")
    return msgspec.json.decode(data, type=Manifest)
