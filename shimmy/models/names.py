"""What a model is called.

A file is called by its stem in lower case, with `_` and space turned into `-`; a model of an Ollama store as Ollama
calls it. Every file also answers to `name@key`, where the key is made from its path alone: when two files share a
name, the first in the order of search keeps it and the others are listed as `name@key`. Which file a plain name means
may change as files come and go; what a `name@key` means never does.
"""

import os
import re
import zlib

from shimmy.core.ollama_names import DEFAULT_NAMESPACE, DEFAULT_TAG, OLLAMA_HOST

_MAX_SHARDS = 1024
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})")


def name_of_file(path: str) -> str:
    """The rule of the original Shimmy: `Phi-3 mini_Q4.1.gguf` is `phi-3-mini-q4.1`; a shard is called by its set."""
    stem, extension = os.path.splitext(os.path.basename(path))
    if extension.lower() != ".gguf":
        stem += extension
    shard = _SHARD.fullmatch(stem)
    return printable(normalized(shard["stem"] if shard else stem))


def name_of_folder(path: str) -> str:
    """`Qwen3-0.6B` is `qwen3-0.6b`."""
    return normalized(title_of_folder(path))


def title_of_folder(path: str) -> str:
    """As people spell it; in a Hugging Face cache, `models--Qwen--Qwen3-0.6B/snapshots/<revision>`, the repository."""
    match path.split(os.sep):
        case [*_, repository, "snapshots", _] if repository.startswith("models--"):
            return printable(repository.rpartition("--")[2])
    return printable(os.path.basename(path))


def normalized(name: str) -> str:
    """Lower case, `-` for `_` and space."""
    return name.lower().replace("_", "-").replace(" ", "-")


def printable(text: str) -> str:
    """The text as it can go into any answer or terminal: valid Unicode without control characters."""
    return _CONTROL.sub("-", text.encode("utf-8", "replace").decode())


def name_in_ollama(host: str, namespace: str, model: str, tag: str) -> str:
    """`llama3.2:1b`, `user/model:tag` for another namespace, `hf.co/org/repo:quant` for another host."""
    if host != OLLAMA_HOST:
        return printable(f"{host}/{namespace}/{model}:{tag}")
    return printable(f"{model}:{tag}" if namespace == DEFAULT_NAMESPACE else f"{namespace}/{model}:{tag}")


def qualified(name: str, path: str) -> str:
    """The name that belongs to this path and to no other."""
    key = zlib.crc32(path.encode("utf-8", "surrogateescape"))
    return f"{name}@{key:08x}"


def with_default_tag(name: str) -> str:
    """`llama3.2` means `llama3.2:latest`."""
    return f"{name}:{DEFAULT_TAG}"


def without_default_tag(name: str) -> str:
    """Ollama's clients say `smollm2:latest` for a file that is called `smollm2`."""
    return name.removesuffix(f":{DEFAULT_TAG}")


def shards_of(path: str) -> list[str] | None:
    """The paths of the whole set that `path` is one of, in order, or None when its name is not a shard's."""
    folder, file_name = os.path.split(path)
    stem, extension = os.path.splitext(file_name)
    shard = _SHARD.fullmatch(stem)
    if not shard or not 1 <= int(shard["number"]) <= int(shard["count"]) <= _MAX_SHARDS:
        return None
    stem, count = shard["stem"], shard["count"]
    numbers = range(1, int(count) + 1)
    return [os.path.join(folder, f"{stem}-{number:05}-of-{count}{extension}") for number in numbers]
