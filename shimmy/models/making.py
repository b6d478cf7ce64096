"""A model made of another one, or of files that were sent: its weights are those, and what comes with it beside them is
written anew. No file of weights is copied."""

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.core.modelfile import MAX_LAYERS, MAX_TEXT_BYTES, Kind, Recipe, read_text
from shimmy.models.facts import inspect

if TYPE_CHECKING:
    from shimmy.models.catalog import Catalog
    from shimmy.store.folder import Store
    from shimmy.store.manifests import Manifest, Part

_ADAPTERS = "adapters"
# Of a file, in characters; nothing is opened by it.
_MAX_NAME_CHARS = 255


def make(store: "Store", catalog: "Catalog", recipe: Recipe) -> "Manifest":
    """In the place of a model of that name, if there is one. Raises `RequestError` for what makes no model,
    `ModelNotFound`, `ModelInvalid`, `StoreFailed`, `Busy`."""
    from shimmy.store.folder import as_store_failure
    from shimmy.store.names import local_name

    local_name(recipe.name)
    base = _base(store, catalog, recipe)
    store.make()
    with as_store_failure(store.root):
        # What comes with it twice comes with it once.
        layers = tuple(dict.fromkeys(_layers(store, base, recipe)))
    if len(layers) > MAX_LAYERS:
        raise RequestError(f"{len(layers)} licences, adapters and other things would come with it, not {MAX_LAYERS}")
    made = store.adopt(msgspec.structs.replace(base, name=recipe.name, aliases=(), layers=layers))
    # What was sent and never used; not before, lest a blob that somebody was told is here goes.
    with suppress(OSError):
        store.sweep()
    return made


def _base(store: "Store", catalog: "Catalog", recipe: Recipe) -> "Manifest":
    from shimmy.store.imports import in_place

    if recipe.source is None:
        return _of_files(store, recipe)
    if (found := store.find(recipe.source)) is not None:
        return found
    model = catalog.find(recipe.source)
    return in_place(recipe.name, model.paths, f"{model.source}: {model.id}", model.own.layers)


def _of_files(store: "Store", recipe: Recipe) -> "Manifest":
    from shimmy.store.manifests import Manifest, Part, Provenance
    from shimmy.store.pull import timestamp
    from shimmy.store.quantization import RemoteFile, candidates

    if any(len(name) > _MAX_NAME_CHARS or not name.isprintable() for name in recipe.files):
        raise RequestError(f"files: a name has at most {_MAX_NAME_CHARS} printable characters", param="files")
    files = [RemoteFile(name, _size(store, digest, "files"), digest) for name, digest in recipe.files.items()]
    found = candidates(files)
    if len(found) != 1 or len(found[0].files) != len(files):
        raise RequestError("files: they must be one GGUF model, whole, each file called as usual", param="files")
    parts = tuple(Part(each.path.rpartition("/")[2], each.size, each.sha256) for each in found[0].files)
    if reason := inspect([store.blob(each.sha256) for each in found[0].files]).invalid:
        raise ModelInvalid(f"what was sent cannot be served: {reason}", param="files")
    return Manifest(recipe.name, parts, Provenance("files that were sent", timestamp()))


def _layers(store: "Store", base: "Manifest", recipe: Recipe) -> "Iterator[Part]":
    """Those of the base, but where there are new ones. Licences and adapters add up."""
    from shimmy.store.manifests import Part

    def text(kind: Kind, content: bytes) -> "Part":
        if len(content) > MAX_TEXT_BYTES:
            raise RequestError(f"{kind}: longer than {MAX_TEXT_BYTES} bytes")
        return Part(kind, len(content), store.put(content))

    fresh: dict[str, list[Part]] = {
        "adapter": [_adapter(store, digest) for digest in recipe.adapters.values()],
        "license": [text("license", each.encode()) for each in recipe.licenses if each],
        "messages": [text("messages", msgspec.json.encode(recipe.messages))] if recipe.messages else [],
        "params": [text("params", msgspec.json.encode(_params(store, base) | recipe.params))] if recipe.params else [],
        "system": [text("system", recipe.system.encode())] if recipe.system else [],
    }
    yield from (part for part in base.layers if part.name in ("adapter", "license") or not fresh.get(part.name))
    for parts in fresh.values():
        yield from parts


def _adapter(store: "Store", digest: str) -> "Part":
    from shimmy.store.manifests import Part

    size = _size(store, digest, _ADAPTERS)
    inspection = inspect([store.blob(digest)])
    if inspection.kind != "adapter":
        reason = inspection.invalid or f"it is a {inspection.kind}"
        raise ModelInvalid(f"sha256:{digest} is no adapter: {reason}", param=_ADAPTERS)
    return Part("adapter", size, digest)


def _params(store: "Store", base: "Manifest") -> dict[str, Any]:
    """Those of the base."""
    for part in base.layers:
        if part.name == "params":
            try:
                text = read_text(part.path or store.blob(part.sha256 or ""))
                return msgspec.json.decode(text, type=dict[str, Any])
            except (ValueError, RecursionError):
                return {}
    return {}


def _size(store: "Store", digest: str, field: str) -> int:
    size = store.size(digest)
    if not size:
        raise RequestError(f"{field}: there is no blob sha256:{digest}; send it to /api/blobs first", param=field)
    return size
