"""Hugging Face as a source: which files a repository has at one commit, and where each can be had."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import msgspec

from shimmy.core.errors import ModelNotFound, PullFailed
from shimmy.store.hosts import Url, parse_url
from shimmy.store.http import Answer, Client
from shimmy.store.names import Reference, is_hex_digest
from shimmy.store.quantization import RemoteFile

DEFAULT_REVISION = "main"
_MAX_FILE_BYTES = 1 << 44
_MAX_PATH_CHARS = 500
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


class _Lfs(msgspec.Struct):
    sha256: str = ""
    size: int = 0


class _Sibling(msgspec.Struct):
    rfilename: str
    lfs: _Lfs | None = None


class _Repository(msgspec.Struct):
    """What the hub says of a repository at a revision."""

    sha: str
    siblings: list[_Sibling] = []
    card: Any = msgspec.field(name="cardData", default=None)

    @property
    def license(self) -> str | None:
        found = self.card.get("license") if isinstance(self.card, dict) else None
        return found[:100] if isinstance(found, str) else None


class Repository(msgspec.Struct, frozen=True):
    """At one commit. `files` are those whose content the hub names by its SHA-256."""

    commit: str
    files: tuple[RemoteFile, ...]
    license: str | None


class Hub:
    """The hub for one repository."""

    def __init__(self, client: Client, reference: Reference) -> None:
        self._client = client
        self._reference = reference
        hosts = client.hosts
        self._base = str(hosts.hub).rstrip("/")
        self._authorization = (hosts.hub.origin, f"Bearer {hosts.token}") if hosts.token else None

    def repository(self, revision: str) -> Repository:
        """Raises `ModelNotFound`, `PullFailed`, `Broken`."""
        path = f"{self._reference.repository}/revision/{quote(revision, safe='')}"
        url = parse_url(f"{self._base}/api/models/{path}?blobs=true")
        with self._client.get(url, authorization=self._authorization) as answer:
            self._check(answer, revision)
            content = answer.document()
        try:
            found = msgspec.json.decode(content, type=_Repository)
            if not _COMMIT.fullmatch(found.sha):
                raise ValueError(f"{found.sha[:80]!r} is no commit")
        except (ValueError, RecursionError) as error:
            raise PullFailed(f"{self._base} answers with what makes no sense: {error}") from None
        return Repository(found.sha, tuple(_files(found.siblings)), found.license)

    def url(self, commit: str, path: str) -> Url:
        """Where to ask for a file; that redirects to where it is."""
        return parse_url(f"{self._base}/{self._reference.repository}/resolve/{commit}/{quote(path, safe='/')}")

    @contextmanager
    def open(self, url: Url, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Raises `ModelNotFound` for a gated repository, which everybody may list."""
        with self._client.get(url, headers, self._authorization) as answer:
            if answer.url.origin == url.origin:
                self._check_access(answer)
            yield answer

    def _check_access(self, answer: Answer) -> None:
        if answer.status in (401, 403):
            why = "HF_TOKEN is not for it" if self._authorization else "if it is private or gated, set HF_TOKEN"
            raise ModelNotFound(f"{self._base} shows us no {self._reference.repository}: {why}", param="model")

    def _check(self, answer: Answer, revision: str) -> None:
        status, name = answer.status, self._reference.repository
        self._check_access(answer)
        if status == 404:
            at = "" if revision == DEFAULT_REVISION else f" at the revision {revision!r}"
            raise ModelNotFound(f"{self._base} has no {name}{at}", param="model")
        if status != 200:
            raise answer.failure()


def _files(siblings: list[_Sibling]) -> list[RemoteFile]:
    return [
        RemoteFile(each.rfilename, each.lfs.size, each.lfs.sha256)
        for each in siblings
        if each.lfs
        and is_hex_digest(each.lfs.sha256)
        and 0 < each.lfs.size < _MAX_FILE_BYTES
        # What is reported stays one line that can be read.
        and len(each.rfilename) <= _MAX_PATH_CHARS
        and each.rfilename.isprintable()
    ]
