"""Where models are looked for, in the order that decides which of two equally named files keeps the name."""

import os
from collections.abc import Iterator, Mapping
from typing import Protocol

from shimmy.core.caches import folder
from shimmy.core.settings import Settings
from shimmy.models.folders import DataFolder, File, Folder, Found, HuggingFaceCache
from shimmy.models.ollama import OllamaStore
from shimmy.models.stored import StoreSource


class Source(Protocol):
    """One place to look, `depth` levels of folders down. `named` means a person named this very file, so it is listed
    even if it is no model."""

    @property
    def label(self) -> str: ...
    @property
    def place(self) -> str: ...
    @property
    def named(self) -> bool: ...
    @property
    def depth(self) -> int: ...
    def find(self) -> Iterator[Found]: ...


def header_cache(environ: Mapping[str, str]) -> str:
    """The file in which this user's programs keep what headers say."""
    return os.path.join(folder(environ), "headers")


def sources_from(settings: Settings, environ: Mapping[str, str]) -> list[Source]:
    return [*_asked_for(settings, environ), *_of_shimmy(environ), *_of_other_programs(environ)]


def trouble_with(place: str) -> str | None:
    """Why nothing can be found there."""
    if not os.path.exists(place):
        return "does not exist"
    return None if os.access(place, os.R_OK) else "not readable"


def _asked_for(settings: Settings, environ: Mapping[str, str]) -> Iterator[Source]:
    if settings.model_path:
        yield File("--model-path", settings.model_path)
    for path in settings.model_dirs:
        yield Folder("--model-dirs", path)
    for path in split_paths(environ.get("SHIMMY_MODEL_PATHS", "")):
        yield Folder("SHIMMY_MODEL_PATHS", path)
    base = environ.get("SHIMMY_BASE_GGUF")
    if base and os.path.isdir(os.path.expanduser(base)):
        yield Folder("SHIMMY_BASE_GGUF", base)
    elif base:
        yield File("SHIMMY_BASE_GGUF", base)
        yield Folder("folder of SHIMMY_BASE_GGUF", os.path.dirname(base) or ".", depth=1)


def _of_shimmy(environ: Mapping[str, str]) -> Iterator[Source]:
    yield Folder("models folder", "models")
    yield DataFolder()
    yield StoreSource(environ)


def _of_other_programs(environ: Mapping[str, str]) -> Iterator[Source]:
    caches = environ.get("XDG_CACHE_HOME") or "~/.cache"
    hub_home = environ.get("HF_HOME") or os.path.join(caches, "huggingface")
    yield HuggingFaceCache(environ.get("HF_HUB_CACHE") or os.path.join(hub_home, "hub"))
    yield OllamaStore(environ.get("OLLAMA_MODELS") or "~/.ollama/models")
    yield OllamaStore("/usr/share/ollama/.ollama/models")
    yield Folder("LM Studio", "~/.lmstudio/models")
    yield Folder("LM Studio", "~/.cache/lm-studio/models")


def split_paths(text: str, separator: str = os.pathsep) -> list[str]:
    """Folders separated by `;`, or by the system's separator unless the whole is a folder whose name has one."""
    paths: list[str] = []
    for part in text.split(";"):
        whole = separator not in part or os.path.isdir(os.path.expanduser(part))
        paths += [part] if whole else part.split(separator)
    return [path.strip() for path in paths if path.strip()]
