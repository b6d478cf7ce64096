"""What can be asked for by name: a repository of Hugging Face, or a model of a registry that speaks Ollama's protocol.
Strict, because names come from anybody and end up in URLs and file names. It reaches for nothing.
"""

import re
from typing import Literal

import msgspec

from shimmy.core.errors import RequestError
from shimmy.core.ollama_names import DEFAULT_NAMESPACE, OLLAMA_HOST

HUGGING_FACE = "hf.co"
MAX_NAME_CHARS = 200

# ASCII alone: letters of other alphabets look like these and are others.
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,199}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")
_HEX = re.compile(r"[0-9a-f]{64}")
_HUGGING_FACE_HOSTS = ("hf.co", "huggingface.co", "www.huggingface.co")
_OLLAMA_HOSTS = (OLLAMA_HOST, "ollama.com", "www.ollama.com")


class Reference(msgspec.Struct, frozen=True):
    """A name taken apart. `host` is "hf.co" for Hugging Face, else the registry's host; `tag` is None where none was
    given; `file` is the path of one file in a repository of Hugging Face."""

    kind: Literal["huggingface", "ollama"]
    host: str
    namespace: str
    model: str
    tag: str | None = None
    file: str | None = None

    @property
    def repository(self) -> str:
        return f"{self.namespace}/{self.model}"

    def named(self, tag: str) -> str:
        """As it is called in the store with this tag: `hf.co/org/repo:Q4_K_M`, `llama3.2:1b`. Parses to the same."""
        if self.kind == "ollama" and self.host == OLLAMA_HOST and self.namespace == DEFAULT_NAMESPACE:
            return f"{self.model}:{tag}"
        return f"{self.host}/{self.repository}:{tag}"


def parse(name: str) -> Reference:
    """`org/repo[:quant]` and `hf.co/org/repo[:quant]` are of Hugging Face, so is `org/repo/path/file.gguf`;
    `model[:tag]` is of Ollama's library, `host/namespace/model[:tag]` of the registry there. A URL of theirs will do.

    Raises `RequestError`.
    """
    text = name.removeprefix("https://").rstrip("/")
    if not 0 < len(text) <= MAX_NAME_CHARS:
        raise _wrong(name, f"it must have 1 to {MAX_NAME_CHARS} characters")
    if "://" in text:
        raise _wrong(name, "a URL begins with https://")
    host, path = _host_and_path(text)
    parts = path.split("/")
    if host in _HUGGING_FACE_HOSTS or (host is None and len(parts) > 1):
        return _of_hugging_face(name, parts)
    if host is None or host in _OLLAMA_HOSTS:
        host = OLLAMA_HOST
    elif not _HOST.fullmatch(host) or ".." in host or int(host.partition(":")[2] or 443) not in range(1, 1 << 16):
        raise _wrong(name, f"{host!r} is no host")
    return _of_registry(name, host, parts)


def revision(text: str) -> str:
    """A branch, tag or commit of a repository. Raises `RequestError`."""
    if not _REVISION.fullmatch(text) or ".." in text or "//" in text:
        raise RequestError(f"{text[:80]!r} is no revision: a branch, a tag or a commit", param="revision")
    return text


def digest(text: object) -> str:
    """The 64 hex digits of `sha256:...`. Raises `ValueError`: whatever else a registry says is a path to somewhere."""
    if not isinstance(text, str) or not text.startswith("sha256:") or not _HEX.fullmatch(text[7:]):
        raise ValueError(f"{str(text)[:80]!r} is no sha256 digest")
    return text[7:]


def is_hex_digest(text: object) -> bool:
    return isinstance(text, str) and bool(_HEX.fullmatch(text))


def local_name(text: str) -> str:
    """One under which a model may be kept: parts with slashes between, of which the first may have a port, and a tag or
    none. Raises `RequestError`."""
    *before, last = text.split("/")
    path, colon, tag = last.partition(":")
    host = before[0].partition(":")[0] if before and _HOST.fullmatch(before[0]) else None
    parts = [*before, path] if host is None else [host, *before[1:], path]
    if len(text) > MAX_NAME_CHARS or not all(map(_is_part, parts)) or len(parts) > 4 or (colon and not _is_tag(tag)):
        raise RequestError(f"{text[:MAX_NAME_CHARS]!r} is no name for a model: {_ALLOWED}", param="name")
    return text


def plain_name(text: str) -> str:
    """The nearest that is a name, and a tag."""
    plain = _NOT_IN_NAMES.sub("-", text.replace("..", "-").replace("--", "-")).strip("-._")
    return plain[: MAX_NAME_CHARS // 2].strip("-._") or "model"


def _host_and_path(text: str) -> tuple[str | None, str]:
    """The host is what has a dot or a port before the first of several slashes: a repository's owner has neither."""
    first, slash, rest = text.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return first.lower(), rest
    return None, text


def _of_hugging_face(name: str, parts: list[str]) -> Reference:
    if len(parts) > 2 and parts[-1].lower().endswith(".gguf"):
        if parts[2] in ("resolve", "blob") and len(parts) > 4:
            raise _wrong(name, "a page's URL has a revision in it; say org/repo/FILE, and --revision beside it")
        if not all(map(_is_part, parts)):
            raise _wrong(name, _ALLOWED)
        return Reference("huggingface", HUGGING_FACE, parts[0], parts[1], file="/".join(parts[2:]))
    if len(parts) != 2:
        raise _wrong(name, "of Hugging Face it is org/repo, org/repo:quant or org/repo/file.gguf")
    model, tag = _model_and_tag(name, parts[1])
    if not _is_part(parts[0]):
        raise _wrong(name, _ALLOWED)
    return Reference("huggingface", HUGGING_FACE, parts[0], model, tag)


def _of_registry(name: str, host: str, parts: list[str]) -> Reference:
    if len(parts) == 1:
        parts = [DEFAULT_NAMESPACE, *parts]
    if len(parts) != 2:
        raise _wrong(name, "of a registry it is model:tag or host/namespace/model:tag")
    model, tag = _model_and_tag(name, parts[1])
    if not _is_part(parts[0]):
        raise _wrong(name, _ALLOWED)
    # Registries know small letters only.
    return Reference("ollama", host, parts[0].lower(), model.lower(), tag)


def _model_and_tag(name: str, text: str) -> tuple[str, str | None]:
    model, colon, tag = text.partition(":")
    if not _is_part(model) or (colon and not _is_tag(tag)):
        raise _wrong(name, _ALLOWED)
    return model, tag if colon else None


_ALLOWED = "its parts are ASCII letters, digits, '.', '_' and '-'"


def _is_part(text: str) -> bool:
    return bool(_PART.fullmatch(text)) and ".." not in text


def _is_tag(text: str) -> bool:
    return bool(_TAG.fullmatch(text)) and ".." not in text


def _wrong(name: str, why: str) -> RequestError:
    return RequestError(f"{name[:MAX_NAME_CHARS]!r} is no name of a model to pull: {why}", param="model")
