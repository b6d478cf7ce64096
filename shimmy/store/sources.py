"""What a name stands for right now: the files to bring, how each is asked for, and what the model will be called. One
kind of source is a repository of Hugging Face, the other a registry that speaks Ollama's protocol."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from shimmy.core.errors import RequestError
from shimmy.core.ollama_names import DEFAULT_TAG
from shimmy.store.hosts import Url
from shimmy.store.http import Answer, Client
from shimmy.store.huggingface import DEFAULT_REVISION, Hub
from shimmy.store.names import HUGGING_FACE, Reference, local_name, plain_name
from shimmy.store.names import revision as checked_revision
from shimmy.store.quantization import Candidate, RemoteFile, by_file, by_tag, candidates, preferred
from shimmy.store.registry import Registry


class Opener(Protocol):
    def open(self, url: Url, headers: Mapping[str, str]) -> AbstractContextManager[Answer]: ...


class Plan(msgspec.Struct, frozen=True):
    """`files` in the order of shards, with where each is; `layers` are those that come with the model, as a registry
    has them; `source` is a URL for people."""

    name: str
    aliases: tuple[str, ...]
    files: tuple[tuple[RemoteFile, Url], ...]
    opener: Opener
    source: str
    revision: str | None = None
    license: str | None = None
    layers: tuple[tuple[RemoteFile, Url], ...] = ()


def plan(client: Client, reference: Reference, revision: str | None, fits: Callable[[int], bool]) -> Plan:
    """Asks the source. `fits` says whether a model of so many bytes has room in this machine's memory.

    Raises `ModelNotFound`, `RequestError`, `PullFailed`, `Forbidden`, `Broken`.
    """
    if reference.kind == "huggingface":
        return _of_hub(client, reference, checked_revision(revision or DEFAULT_REVISION), fits)
    if revision is not None:
        raise RequestError("only repositories of Hugging Face have revisions; a registry has tags", param="revision")
    registry, tag = Registry(client, reference), reference.tag or DEFAULT_TAG
    file, layers = registry.model(tag)
    return Plan(
        name=local_name(reference.named(tag)),
        aliases=(),
        files=((file, registry.url(file)),),
        opener=registry,
        source=f"https://{reference.host}/{reference.repository}:{tag}",
        layers=tuple((each, registry.url(each)) for each in layers),
    )


def _of_hub(client: Client, reference: Reference, revision: str, fits: Callable[[int], bool]) -> Plan:
    hub = Hub(client, reference)
    found = hub.repository(revision)
    chosen = _chosen(reference, candidates(found.files), fits)
    tag = chosen.quantization or plain_name(chosen.stem.rpartition("/")[2])
    return Plan(
        name=local_name(reference.named(tag)),
        aliases=tuple(_aliases(reference, tag, chosen)),
        files=tuple((file, hub.url(found.commit, file.path)) for file in chosen.files),
        opener=hub,
        source=f"https://{HUGGING_FACE}/{reference.repository}",
        revision=found.commit,
        license=found.license,
    )


def _chosen(reference: Reference, found: list[Candidate], fits: Callable[[int], bool]) -> Candidate:
    if reference.file is not None:
        return by_file(found, reference.file)
    if reference.tag is None or reference.tag == DEFAULT_TAG:
        return preferred(found, fits)
    return by_tag(found, reference.tag)


def _aliases(reference: Reference, tag: str, chosen: Candidate) -> list[str]:
    """Without the host; as the file is called; and without a tag, if it was asked for like that."""
    found = [f"{reference.repository}:{tag}", chosen.stem.rpartition("/")[2]]
    if reference.file is None and reference.tag in (None, DEFAULT_TAG):
        found += [f"{HUGGING_FACE}/{reference.repository}", reference.repository]
    return [alias for alias in found if _is_name(alias)]


def _is_name(text: str) -> bool:
    try:
        return bool(local_name(text))
    except RequestError:
        return False
