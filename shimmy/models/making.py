"""A model made of another one, or of files that were sent: what comes with it beside its weights is written anew. Its
weights are those, and no file of them is copied, unless they have to be in another format or quantization: which jobs
of workers that takes is said here, and who does them is the business of others."""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.core.modelfile import MAX_LAYERS, MAX_TEXT_BYTES, Kind, Recipe, read_text
from shimmy.core.ollama_names import DEFAULT_TAG
from shimmy.models.facts import inspect
from shimmy.models.keeping import check_free

if TYPE_CHECKING:
    from shimmy.models.catalog import Catalog
    from shimmy.models.rewriting import Rewriting
    from shimmy.store.folder import Store
    from shimmy.store.manifests import Manifest, Part, Provenance
    from shimmy.store.quantization import RemoteFile
    from shimmy.store.workplace import Workplace

_ADAPTERS = "adapters"
# Of a file, in characters; nothing is opened by it.
_MAX_NAME_CHARS = 255
_PIECE_BYTES = 1 << 20


class Making:
    """One model on its way: `prepare`, then whatever `rewriting` has to be done, if anything, then `finish`; `close`
    however it ended. For one thread at a time."""

    def __init__(self, store: "Store", catalog: "Catalog", recipe: Recipe) -> None:
        self.rewriting: Rewriting | None = None
        self._store = store
        self._catalog = catalog
        self._recipe = recipe
        self._place: Workplace | None = None
        self._texts: dict[str, bytes] = {}

    def prepare(self) -> None:
        """Finds out whatever is wrong with the recipe; nothing is made. Raises `RequestError` for what makes no model,
        `ModelNotFound`, `ModelInvalid`, `StoreFailed`."""
        from shimmy.store.folder import as_store_failure
        from shimmy.store.names import local_name

        check_free(self._catalog, local_name(self._recipe.name))
        self._store.make()
        with as_store_failure(self._store.root):
            self._base, paths = self._found()
            # What comes with it twice comes with it once.
            self._layers = tuple(dict.fromkeys(_layers(self._store, self._base, self._recipe, self._texts)))
            if len(self._layers) > MAX_LAYERS:
                raise RequestError(
                    f"{len(self._layers)} licences, adapters and other things would come with it, not {MAX_LAYERS}"
                )
            if self._recipe.quantize or not self._base.parts:
                self._rewrite(paths)

    def finish(self, stop: Callable[[], None]) -> "Manifest":
        """In the place of a model of that name, if there is one. `stop` raises to give up. Raises `ModelNotFound` where
        files have gone meanwhile, `StoreFailed`, `Busy`."""
        from shimmy.store.folder import as_store_failure

        with as_store_failure(self._store.root):
            added: list[str] = []
            try:
                fresh = None if self.rewriting is None else self._take_in(self.rewriting, stop, added)
                for digest, content in self._texts.items():
                    if not self._store.has(digest, len(content)):
                        added.append(self._store.put(content))
                made = self._store.adopt(self._manifest(fresh))
            except BaseException:
                for digest in added:
                    self._store.discard(digest)
                raise
        # What was sent and never used; not before, lest a blob that somebody was told is here goes.
        with suppress(OSError):
            self._store.sweep()
        return made

    def close(self) -> None:
        """May be called again."""
        if self._place is not None:
            self._place.close()

    def _found(self) -> tuple["Manifest", list[str]]:
        """What it is made of, and the files of that. A checkpoint that was sent has no part yet that could be kept."""
        from shimmy.models.rewriting import is_checkpoint, laid_out
        from shimmy.store.manifests import Manifest

        store, recipe = self._store, self._recipe
        if recipe.source is not None:
            base = _named(store, self._catalog, recipe.name, recipe.source)
        elif is_checkpoint(recipe.files):
            sent = [(file.path, store.blob(file.sha256)) for file in _sent(store, recipe)]
            return Manifest(recipe.name, (), _origin()), list(laid_out(self._workplace(), sent))
        else:
            base = _of_files(store, recipe)
        return base, [part.path or store.blob(part.sha256 or "") for part in base.parts]

    def _rewrite(self, paths: list[str]) -> None:
        from shimmy.models.rewriting import Rewriting, wanted_type

        wanted = wanted_type(self._recipe.quantize) if self._recipe.quantize else None
        place = self._workplace()
        if self._base.parts and all(part.path is None for part in self._base.parts):
            # llama.cpp finds shards by the name of the first.
            names = (f"model-{at:05}-of-{len(paths):05}.gguf" for at in range(1, len(paths) + 1))
            paths = [place.take(path, name) for path, name in zip(paths, names, strict=True)]
        rewriting = Rewriting(place, paths, self._recipe.name.removesuffix(f":{DEFAULT_TAG}"), wanted)
        if rewriting.jobs:
            self.rewriting = rewriting

    def _workplace(self) -> "Workplace":
        if self._place is None:
            self._place = self._store.workplace()
        return self._place

    def _take_in(self, rewriting: "Rewriting", stop: Callable[[], None], added: list[str]) -> "Part":
        from shimmy.store.manifests import Part

        path = rewriting.outcome
        inspection = inspect([path])
        if inspection.invalid or inspection.facts is None:
            raise ModelInvalid(f"what was made cannot be served: {inspection.invalid}")
        size, digest = os.path.getsize(path), _digest(path, stop)
        # A model that has the same file and is loaded would have another one then.
        if not self._store.has(digest, size):
            self._store.take_in(path, digest)
            added.append(digest)
        return Part(f"model-{inspection.facts.quantization}.gguf", size, digest)

    def _manifest(self, fresh: "Part | None") -> "Manifest":
        made = msgspec.structs.replace(self._base, name=self._recipe.name, aliases=(), layers=self._layers)
        if fresh is None or self.rewriting is None:
            return made
        source = "; ".join([made.provenance.source, *self.rewriting.changes])
        return msgspec.structs.replace(
            made, parts=(fresh,), provenance=msgspec.structs.replace(made.provenance, source=source)
        )


def _named(store: "Store", catalog: "Catalog", name: str, source: str) -> "Manifest":
    from shimmy.store.imports import in_place

    if (found := store.find(source)) is not None:
        return found
    model = catalog.find(source)
    return in_place(name, model.paths, f"{model.source}: {model.id}", model.own.layers)


def _origin() -> "Provenance":
    from shimmy.store.manifests import Provenance
    from shimmy.store.pull import timestamp

    return Provenance("files that were sent", timestamp())


def _sent(store: "Store", recipe: Recipe) -> list["RemoteFile"]:
    from shimmy.store.quantization import RemoteFile

    if any(len(name) > _MAX_NAME_CHARS or not name.isprintable() for name in recipe.files):
        raise RequestError(f"files: a name has at most {_MAX_NAME_CHARS} printable characters", param="files")
    return [RemoteFile(name, _size(store, digest, "files"), digest) for name, digest in recipe.files.items()]


def _of_files(store: "Store", recipe: Recipe) -> "Manifest":
    from shimmy.store.manifests import Manifest, Part
    from shimmy.store.quantization import candidates

    files = _sent(store, recipe)
    found = candidates(files)
    if len(found) != 1 or len(found[0].files) != len(files):
        raise RequestError(
            "files: they must be one GGUF model, whole, each file called as usual, or one in SafeTensors", param="files"
        )
    # A small file could be a thousand headers to read and to keep.
    if len({each.sha256 for each in files}) < len(files):
        raise RequestError("files: two shards are the same", param="files")
    parts = tuple(Part(each.path.rpartition("/")[2], each.size, each.sha256) for each in found[0].files)
    if reason := inspect([store.blob(each.sha256) for each in found[0].files]).invalid:
        raise ModelInvalid(f"what was sent cannot be served: {reason}", param="files")
    return Manifest(recipe.name, parts, _origin())


def _digest(path: str, stop: Callable[[], None]) -> str:
    from shimmy.store.sha256 import sha256

    found = sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            stop()
            found.update(piece)
    return found.hexdigest()


def _layers(store: "Store", base: "Manifest", recipe: Recipe, texts: dict[str, bytes]) -> "Iterator[Part]":
    """Those of the base, but where there are new ones. Licences and adapters add up. Texts that have to become
    blobs for that are put into `texts`, by their digests."""
    from hashlib import sha256

    from shimmy.store.manifests import Part

    def text(kind: Kind, content: bytes) -> "Part":
        if len(content) > MAX_TEXT_BYTES:
            raise RequestError(f"{kind}: longer than {MAX_TEXT_BYTES} bytes")
        digest = sha256(content).hexdigest()
        texts[digest] = content
        return Part(kind, len(content), digest)

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
