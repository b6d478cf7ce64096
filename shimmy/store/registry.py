"""A registry that speaks Ollama's protocol as a source: a manifest, the layer of it that is the model, and those that
come with it."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from secrets import token_urlsafe

import msgspec

from shimmy.core.errors import ModelNotFound, PullFailed
from shimmy.core.modelfile import MAX_LAYERS, MAX_TEXT_BYTES, MEDIA_TYPE, kind_of
from shimmy.store.hosts import Origin, Url, parse_url, registry
from shimmy.store.http import Answer, Client
from shimmy.store.names import Reference, digest
from shimmy.store.ollama_key import NAME
from shimmy.store.quantization import RemoteFile

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_MODEL = f"{MEDIA_TYPE}model"
# The bounds keep the time linear in what a registry says.
_CHALLENGE = re.compile(r'\b([a-z]{1,20})="([^"]*)"')
_MAX_LAYER_BYTES = 1 << 44
_MAX_TOKEN_CHARS = 16_384


class _Layer(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int


class _Manifest(msgspec.Struct):
    layers: list[_Layer]


class Registry:
    """One registry for one pull. Owns the token that it hands out to anyone."""

    def __init__(self, client: Client, reference: Reference) -> None:
        self._client = client
        self._reference = reference
        self._origin = registry(reference.host)
        self._token = ""

    def model(self, tag: str) -> tuple[RemoteFile, list[RemoteFile]]:
        """Its GGUF file, and what comes with it, each called by its kind (core/modelfile.py). Raises
        `ModelNotFound`, `PullFailed`, `Broken`."""
        with self.open(self._url(f"manifests/{tag}"), {"Accept": _MANIFEST}) as answer:
            if answer.status == 404:
                raise ModelNotFound(f"{self._origin} has no {self._reference.named(tag)}", param="model")
            self._check(self._origin, answer)
            content = answer.document()
        try:
            layers = msgspec.json.decode(content, type=_Manifest).layers
            return _model(layers), _own(layers)
        except (ValueError, RecursionError) as error:
            raise PullFailed(f"{self._origin} sends a manifest that makes no sense: {error}") from None

    def url(self, file: RemoteFile) -> Url:
        return self._url(f"blobs/sha256:{file.sha256}")

    @contextmanager
    def open(self, url: Url, headers: Mapping[str, str]) -> Iterator[Answer]:
        """With a token where one is asked for."""
        token = self._token
        with self._client.get(url, headers, (self._origin, f"Bearer {token}") if token else None) as answer:
            # A token that was good once is so for some minutes.
            if answer.status != 401 or answer.url.origin != self._origin or not answer.header("www-authenticate"):
                yield answer
                return
            challenge = answer.header("www-authenticate")
        token = self._token = self._ask_for_token(challenge)
        with self._client.get(url, headers, (self._origin, f"Bearer {token}")) as answer:
            yield answer

    def _ask_for_token(self, challenge: str) -> str:
        """From whom the registry says, if that is a host that we talk to. It is told no secret of ours: who has a key
        of Ollama's signs with it."""
        fields = dict(_CHALLENGE.findall(challenge))
        if not challenge.lower().startswith("bearer ") or "realm" not in fields:
            raise PullFailed(f"{self._origin} wants to know who asks, in a way that is not known here")
        url = _token_url(fields)
        key = self._client.hosts.key_for(self._origin, url.origin)
        with self._client.get(url, authorization=(url.origin, key.authorization(str(url))) if key else None) as answer:
            self._check(url.origin, answer)
            content = answer.document()
        try:
            found = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
            token = msgspec.json.decode(found.get("token") or found.get("access_token") or b"null", type=str)
        except (ValueError, RecursionError) as error:
            raise PullFailed(f"{url.origin} hands out no token: {error}") from None
        if not (0 < len(token) <= _MAX_TOKEN_CHARS and token.isascii() and token.isprintable()):
            raise PullFailed(f"{url.origin} hands out something that is no token")
        return token

    def _check(self, origin: Origin, answer: Answer) -> None:
        if answer.status in (401, 403):
            hosts = self._client.hosts
            why = f"{NAME} cannot be used: {hosts.ollama_key_trouble}" if hosts.ollama_key_trouble else ""
            why = why or f"if it is private, {NAME} must be the key of somebody who may have it"
            raise PullFailed(f"{origin} does not let us have this (status {answer.status}); {why}")
        if answer.status != 200:
            raise answer.failure()

    def _url(self, path: str) -> Url:
        return parse_url(f"https://{self._origin}/v2/{self._reference.repository}/{path}")


def _model(layers: list[_Layer]) -> RemoteFile:
    models = [layer for layer in layers if layer.media_type == _MODEL]
    if len(models) != 1:
        raise PullFailed(f"this has {len(models)} GGUF files instead of one; it is of another format")
    return _file("model.gguf", models[0], _MAX_LAYER_BYTES)


def _own(layers: list[_Layer]) -> list[RemoteFile]:
    """Raises `ValueError`."""
    found = [(kind, layer) for layer in layers if (kind := kind_of(layer.media_type))]
    if len(found) > MAX_LAYERS:
        raise ValueError(f"it has {len(found)} layers beside the model")
    return [_file(kind, layer, _MAX_LAYER_BYTES if kind == "adapter" else MAX_TEXT_BYTES) for kind, layer in found]


def _file(name: str, layer: _Layer, max_bytes: int) -> RemoteFile:
    if not 0 < layer.size <= max_bytes:
        raise ValueError(f"a {name} of {layer.size} bytes")
    return RemoteFile(name, layer.size, digest(layer.digest))


def _token_url(challenge: Mapping[str, str]) -> Url:
    """With what keeps anybody from using a signed one again."""
    from urllib.parse import urlencode

    query = [("service", challenge.get("service", ""))]
    query += [("scope", scope) for scope in challenge.get("scope", "").split(" ")]
    query += [("ts", str(int(time.time()))), ("nonce", token_urlsafe(16))]
    realm = challenge["realm"]
    return parse_url(f"{realm}{'&' if '?' in realm else '?'}{urlencode(sorted(query))}")
