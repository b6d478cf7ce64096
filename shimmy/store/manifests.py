"""What the store keeps of a model beside its bytes: a manifest, which says what it is called, which blobs or files it
consists of, and where they came from. Owns the format on disk.
"""

import msgspec

from shimmy.core.errors import StoreFailed
from shimmy.store.names import is_hex_digest, local_name

FORMAT = 1
MAX_BYTES = 1 << 20


class Part(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file of the model: a blob of the store, by its `sha256`, or with `path` a file elsewhere that stays there, of
    which `mtime_ns` says which version was meant. Sizes are in bytes."""

    name: str
    size: int
    sha256: str | None = None
    path: str | None = None
    mtime_ns: int | None = None


class Provenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a model came from. `revision` is the commit of a repository, `pulled_at` a time as in RFC 3339."""

    source: str
    pulled_at: str
    revision: str | None = None
    license: str | None = None


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """`aliases` are further names; `parts` are in the order of shards, and `layers` what comes with the model beside
    its weights, each named by its kind (core/modelfile.py)."""

    name: str
    parts: tuple[Part, ...]
    provenance: Provenance
    aliases: tuple[str, ...] = ()
    layers: tuple[Part, ...] = ()
    format: int = FORMAT

    @property
    def digests(self) -> set[str]:
        """Of all blobs that must stay."""
        return {part.sha256 for part in (*self.parts, *self.layers) if part.sha256 and part.path is None}

    @property
    def size(self) -> int:
        return sum(part.size for part in (*self.parts, *self.layers))


def encode(manifest: Manifest) -> bytes:
    """Raises `StoreFailed` for one that `decode` would not take for its length."""
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"
    if len(content) > MAX_BYTES:
        raise StoreFailed(f"there is too much to note of {manifest.name}: {len(content)} bytes")
    return content


def decode(content: bytes) -> Manifest:
    """Raises `ValueError` for what could not have been written by `encode`."""
    try:
        found = msgspec.json.decode(content, type=Manifest)
        for name in (found.name, *found.aliases):
            local_name(name)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    except Exception as error:
        raise ValueError(getattr(error, "message", None) or str(error)) from None
    if found.format != FORMAT:
        raise ValueError(f"its format is {found.format}; this program knows {FORMAT}")
    digests = [part.sha256 for part in (*found.parts, *found.layers) if part.path is None or part.sha256 is not None]
    if not found.parts or not all(map(is_hex_digest, digests)):
        raise ValueError("its parts are not named by sha256 digests")
    return found


def file_name(name: str) -> str:
    """Of a model's manifest, whatever its spelling: names that differ in case only are the same model."""
    from urllib.parse import quote

    return f"{quote(name.lower(), safe='')}.json"


def name_of(file: str) -> str:
    """The model's, from the name of its manifest, for one that cannot be read."""
    from urllib.parse import unquote

    return unquote(file.removesuffix(".json"))
