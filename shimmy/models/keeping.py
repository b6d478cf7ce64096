"""What is done with models of the store by names that may be those of any model: they are copied, removed, and taken
in from elsewhere without their files."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from shimmy.core.errors import ModelInvalid, ModelNotFound, RequestError
from shimmy.models.discovery import Source
from shimmy.models.facts import inspect
from shimmy.models.folders import File, Found
from shimmy.models.names import normalized
from shimmy.models.stored import StoreSource

if TYPE_CHECKING:
    from shimmy.models.catalog import Catalog
    from shimmy.store.folder import Store
    from shimmy.store.incoming import Incoming
    from shimmy.store.manifests import Manifest

Program = Literal["ollama", "huggingface", "lmstudio"]
PROGRAMS: dict[Program, str] = {
    "ollama": "Ollama store",
    "huggingface": "Hugging Face cache",
    "lmstudio": "LM Studio",
}


def user_store(environ: Mapping[str, str]) -> "Store":
    from shimmy.store.folder import Store
    from shimmy.store.place import store_path

    return Store(store_path(environ))


def incoming_blob(store: "Store", digest: str) -> "Incoming":
    """What takes a file in that somebody sends. Raises `StoreFailed`."""
    from shimmy.store.incoming import Incoming

    return Incoming(store, digest)


def copy(store: "Store", catalog: "Catalog", source: str, target: str) -> "Manifest":
    """A further name for a model, of the store or not; its bytes are not copied. Raises `ModelNotFound`,
    `ModelInvalid`, `RequestError`, `StoreFailed`."""
    from shimmy.store.imports import in_place

    check_free(catalog, target)
    manifest = _stored(store, catalog, source)
    if manifest is None:
        model = catalog.find(source)
        manifest = in_place(target, model.paths, f"{model.source}: {model.id}", model.own.layers)
    return store.copy(manifest, target)


def check_free(catalog: "Catalog", name: str) -> None:
    """Raises `RequestError` for a name that would not lead to a model of the store, since one that is found before it
    has it."""
    before = {source.label for source in takewhile(lambda each: each.label != StoreSource.label, catalog.sources)}
    source_of = {each.name: each.source for each in catalog.skipped()} | {
        each.id: each.source for each in catalog.models()
    }
    if (label := source_of.get(name)) in before:
        raise RequestError(f"{name!r} is what a model is called that is found before the store: {label}", param="name")


def leaves_with(store: "Store", catalog: "Catalog", name: str) -> str | None:
    """The id of the model that is no longer there once this name is removed. One that has other names stays, by
    those, unless this is what it is known by."""
    manifest, model = _stored(store, catalog, name), catalog.look_up(name)
    if manifest is None or model is None or model.source != StoreSource.label:
        return None
    return model.id if model.id == manifest.name else None


def remove(store: "Store", catalog: "Catalog", name: str) -> int:
    """How many bytes that made free. Raises `ModelNotFound`, and `RequestError` for a model that is not of the store:
    its file belongs to somebody else."""
    if store.knows(name):
        return store.remove(name)
    if (manifest := _stored(store, catalog, name)) is not None:
        return store.remove(manifest.name)
    try:
        model = catalog.find(name)
    except ModelInvalid:
        raise RequestError(
            f"{name!r} is not of the store {store.root}; its files are not ours", param="model"
        ) from None
    raise RequestError(
        f"{model.id!r} is not of the store {store.root}, but at {model.paths[0]}; remove it there", param="model"
    )


def _stored(store: "Store", catalog: "Catalog", name: str) -> "Manifest | None":
    """That of a model of the store, also where only the catalogue can read the spelling of its name."""
    if (manifest := store.find(name)) is not None:
        return manifest
    model = catalog.look_up(name)
    return store.find(model.id) if model is not None and model.source == StoreSource.label else None


def take_in_file(store: "Store", path: str, name: str | None) -> "Manifest":
    """The model in this file, or in the whole set of shards that it is one of. Raises `ModelInvalid`, `RequestError`,
    `ModelNotFound`."""
    from shimmy.store.imports import in_place
    from shimmy.store.names import plain_name

    for found in File("import", path).find():
        _check(found)
        chosen = name or plain_name(normalized(found.name))
        return store.copy(in_place(chosen, found.paths, f"file: {os.path.abspath(path)}"), chosen)
    raise ModelNotFound(f"there is no file {path!r}")


def take_in_all(store: "Store", sources: Sequence[Source], program: Program) -> "Iterator[Manifest]":
    """All models of another program that can be served, as they are called there or on the hub that they are from."""
    from shimmy.store.imports import in_place

    label = PROGRAMS[program]
    for source in (each for each in sources if each.label == label):
        for found in source.find():
            if found.reason is None and (inspection := inspect(found.paths)).kind == "model" and not inspection.invalid:
                name = _name(program, source, found)
                yield store.copy(in_place(name, found.paths, f"{label}: {found.name}", found.own.layers), name)


def _name(program: Program, source: Source, found: Found) -> str:
    from shimmy.store.imports import repository_name
    from shimmy.store.names import plain_name

    if program == "ollama":
        return found.name
    return repository_name(found.paths[0], source.place) or plain_name(found.name)


def _check(found: Found) -> None:
    if found.reason:
        raise ModelInvalid(found.reason)
    inspection = inspect(found.paths)
    if inspection.invalid or inspection.kind != "model":
        raise ModelInvalid(f"{found.paths[0]} cannot be served: {inspection.invalid or f'it is a {inspection.kind}'}")
