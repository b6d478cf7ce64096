"""Reads the file of API keys: one on each line, then what it may do. docs/security.md describes it.

What is in the file is never part of a message, a name aside: it is secret.
"""

import os
import re

from shimmy.core.keys import INFER, ApiKey

_MAX_BYTES = 1 << 20
_KEY = re.compile(r"[!-~]+")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})", re.IGNORECASE)
_SCOPES = re.compile(r"(?:infer|admin)(?:,(?:infer|admin))*")
_NAME = re.compile(r"[\w.:@-]{1,64}")
_LIMIT = re.compile(r"[1-9]\d{0,11}", re.ASCII)
_LIMITS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "concurrent": "max_concurrent"}


class KeysFileError(Exception):
    """The file cannot be used; the message says where and why."""


def read_keys(path: str) -> tuple[tuple[ApiKey, ...], str | None]:
    """The keys, at least one, and what is doubtful about the file. Raises `KeysFileError`."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
            mode, owner = os.fstat(file.fileno()).st_mode, os.fstat(file.fileno()).st_uid
    except OSError as error:
        raise KeysFileError(f"{path}: {error.strerror}") from None
    if hasattr(os, "geteuid") and (mode & 0o022 or owner not in (0, os.geteuid())):
        raise KeysFileError(f"{path}: others may write to it, and give themselves keys")
    if len(content) > _MAX_BYTES:
        raise KeysFileError(f"{path}: it is larger than {_MAX_BYTES} bytes")
    keys = _parsed(path, content)
    is_exposed = hasattr(os, "geteuid") and mode & 0o077 and _has_plain(content)
    return keys, f"others may read the keys in {path}" if is_exposed else None


def _parsed(path: str, content: bytes) -> tuple[ApiKey, ...]:
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise KeysFileError(f"{path}: it is not UTF-8") from None
    found: dict[bytes, ApiKey] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if words and not words[0].startswith("#"):
            try:
                key = _key(words)
            except ValueError as error:
                raise KeysFileError(f"{path}, line {number}: {error}") from None
            if key.digest in found:
                raise KeysFileError(f"{path}, line {number}: this key stands there twice")
            found[key.digest] = key
    if not found:
        raise KeysFileError(f"{path}: there is no key in it")
    return tuple(found.values())


def _key(words: list[str]) -> ApiKey:
    secret, *options = words
    if not _KEY.fullmatch(secret):
        raise ValueError("a key consists of visible ASCII characters")
    fields: dict[str, object] = {"scopes": INFER}
    for option in options:
        if option.startswith("#"):
            break
        field, value = _option(option)
        fields[field] = value
    if digest := _DIGEST.fullmatch(secret):
        return ApiKey(bytes.fromhex(digest[1]), **fields)  # type: ignore[arg-type]
    return ApiKey.of(secret, **fields)


def _option(text: str) -> tuple[str, object]:
    name, _, value = text.partition("=")
    if name == "name" and _NAME.fullmatch(value):
        return "name", value
    if name == "scope" and _SCOPES.fullmatch(value):
        return "scopes", frozenset(value.split(","))
    if name in _LIMITS and _LIMIT.fullmatch(value):
        return _LIMITS[name], int(value)
    # A second key by mistake would be repeated, so only names of options are.
    known = f"{name}= has no such value" if name in ("name", "scope", *_LIMITS) else "there is an unknown option"
    raise ValueError(f"{known}; options are name=, scope=infer,admin, rpm=, tpm= and concurrent=")


def _has_plain(content: bytes) -> bool:
    first = (line.split()[0] for line in content.decode().splitlines() if line.split())
    return any(not word.startswith("#") and not _DIGEST.fullmatch(word) for word in first)
