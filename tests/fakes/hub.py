"""Hugging Face and a registry of Ollama's kind, on this machine: the parts of their protocols that a pull uses, over
TLS with a certificate made on the spot, with files on another host, to which they redirect. And what goes wrong with
such hosts, as a test wants it."""

import base64
import hashlib
import json
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KEPT = Path(__file__).parent / "tls"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_secretsecretsecret"
NO_PROXIES = {"NO_PROXY": "*", "no_proxy": "*"}
_ASKED = "/token"


@dataclass
class Faults:
    """`statuses` are answered first, by the host of the files, and `refusals`, with headers, by the host
    they are for. `cut_bytes` ends each answer after so many bytes; `corrupt` changes a byte of every file;
    `block_seconds` is waited for before each block of `block_bytes`. From byte `held_from` on no file is sent before
    `let_go` is set."""

    serves_ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    refusals: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=dict)
    cut_bytes: int | None = None
    corrupt: bool = False
    block_seconds: float = 0.0
    block_bytes: int = 65536
    held_from: int | None = None
    let_go: threading.Event = field(default_factory=threading.Event)
    redirect: str | None = None
    challenge: str | None = None
    encoding: str | None = None
    content_range: str | None = None


@dataclass
class Seen:
    host: str
    path: str
    authorization: str | None
    range: str | None


@dataclass
class Hub:
    """`repositories` have files by path, `images` the bytes of a model by `namespace/model:tag`, and
    `beside` those of what comes with it by their kind."""

    environ: dict[str, str]
    origin: str
    files_origin: str
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    beside: dict[str, dict[str, bytes]] = field(default_factory=dict)
    manifests: dict[str, Any] = field(default_factory=dict)
    faults: Faults = field(default_factory=Faults)
    seen: list[Seen] = field(default_factory=list)
    private: set[str] = field(default_factory=set)
    # Whose key must have signed who asks for a token, in SSH's form.
    signer: bytes | None = None
    # Everybody may list these, and nobody have their files without a token.
    gated: set[str] = field(default_factory=set)

    @property
    def ranges(self) -> list[str]:
        return [each.range for each in self.seen if each.range and each.host == self.files_origin]

    def blobs(self) -> Iterator[bytes]:
        yield from self.images.values()
        for files in (*self.repositories.values(), *self.beside.values()):
            yield from files.values()

    def blob(self, digest: str) -> bytes | None:
        return next((each for each in self.blobs() if sha256(each) == digest), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    server: ThreadingHTTPServer

    def do_GET(self) -> None:
        host = self.headers["host"]
        url = urlsplit(self.path)
        self.hub.seen.append(Seen(host, self.path, self.headers["authorization"], self.headers["range"]))
        if refusals := self.hub.faults.refusals.get(host):
            status, headers = refusals.pop(0)
            return self.refuse(status, **headers)
        for pattern, answer in _ROUTES:
            if match := re.fullmatch(pattern, url.path):
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                answer(self, *map(unquote, match.groups()), **query)
                return
        self.refuse(404)

    def refuse(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("content-length", "0")
        self.end_headers()

    def give_json(self, content: Any) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def model(self, repository: str, revision: str, blobs: str = "") -> None:
        hub = self.hub
        files = hub.repositories.get(repository)
        if repository in hub.private and self.headers["authorization"] != f"Bearer {TOKEN}":
            return self.refuse(401)
        if files is None or revision not in ("main", COMMIT) or not blobs:
            return self.refuse(404)
        siblings = [
            {"rfilename": path, "size": len(content), "blobId": "0" * 40, "lfs": lfs(content)}
            for path, content in files.items()
        ]
        siblings.append({"rfilename": "README.md", "size": 3, "blobId": "1" * 40})
        card = {"license": "apache-2.0"}
        self.give_json({"id": repository, "sha": COMMIT, "siblings": siblings, "cardData": card, "gated": False})

    def resolve(self, repository: str, commit: str, path: str) -> None:
        hub = self.hub
        if repository in hub.private | hub.gated and self.headers["authorization"] != f"Bearer {TOKEN}":
            return self.refuse(403)
        content = hub.repositories[repository][path]
        to = hub.faults.redirect or f"https://{hub.files_origin}/file/{sha256(content)}?X-Amz=a%2Fb"
        self.refuse(302, location=to)

    def manifest(self, name: str, tag: str) -> None:
        hub = self.hub
        if self.is_challenged(name):
            return None
        if f"{name}:{tag}" in hub.manifests:
            return self.give_json(hub.manifests[f"{name}:{tag}"])
        content = hub.images.get(f"{name}:{tag}")
        if content is None:
            return self.refuse(404)
        layers = [layer(content), layer(b"{{ .Prompt }}", "template")]
        layers += [layer(each, kind) for kind, each in hub.beside.get(f"{name}:{tag}", {}).items()]
        return self.give_json({"schemaVersion": 2, "layers": layers})

    def blob(self, name: str, digest: str) -> None:
        if not self.is_challenged(name):
            self.refuse(307, location=f"https://{self.hub.files_origin}/file/{digest}")

    def is_challenged(self, name: str) -> bool:
        challenge = self.hub.faults.challenge
        if challenge is None or self.headers["authorization"] == "Bearer registry-token":
            return False
        realm = challenge or f"https://{self.hub.origin}{_ASKED}"
        scope = f"repository:{name}:pull"
        self.refuse(401, www_authenticate=f'Bearer realm="{realm}",service="hub",scope="{scope}"')
        return True

    def token(self, service: str = "", scope: str = "", **more: str) -> None:
        if self.hub.signer is not None and not self.is_signed(self.hub.signer):
            return self.refuse(401)
        good = service == "hub" and scope.startswith("repository:")
        self.give_json({"token": "registry-token" if good else ""})

    def is_signed(self, signer: bytes) -> bool:
        """By this key, for the very URL that was asked for."""
        from nacl.bindings import crypto_sign_open
        from nacl.exceptions import BadSignatureError

        public, _, signature = (self.headers["authorization"] or "").partition(":")
        no_body = base64.b64encode(hashlib.sha256(b"").hexdigest().encode()).decode()
        text = f"GET,https://{self.headers['host']}{self.path},{no_body}".encode()
        try:
            return base64.b64decode(public) == signer and bool(
                crypto_sign_open(base64.b64decode(signature) + text, signer[-32:])
            )
        except (ValueError, BadSignatureError):
            return False

    def file(self, digest: str, **query: str) -> None:
        faults = self.hub.faults
        content = self.hub.blob(digest)
        if faults.statuses:
            return self.refuse(faults.statuses.pop(0))
        if content is None:
            return self.refuse(404)
        if faults.corrupt:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, end, status = 0, len(content), 200
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["range"] or "")
        if match and faults.serves_ranges:
            start, end, status = int(match[1]), min(len(content), int(match[2]) + 1), 206
        self.send_response(status)
        if status == 206:
            said = faults.content_range or f"bytes {start}-{end - 1}/{len(content)}"
            self.send_header("content-range", said)
        if faults.encoding:
            self.send_header("content-encoding", faults.encoding)
        self.send_header("content-length", str(end - start))
        self.end_headers()
        self.give_blocks(content, start, end if faults.cut_bytes is None else min(end, start + faults.cut_bytes))
        if faults.cut_bytes is not None:
            self.close_connection = True

    def give_blocks(self, content: bytes, start: int, end: int) -> None:
        faults = self.hub.faults
        size = faults.block_bytes
        for at in range(start, end, size):
            if faults.block_seconds:
                time.sleep(faults.block_seconds)
            if faults.held_from is not None and at >= faults.held_from:
                faults.let_go.wait(60)
            self.wfile.write(content[at : min(at + size, end)])

    def log_message(self, format: str, *args: Any) -> None:
        pass


_ROUTES: list[tuple[str, Any]] = [
    (r"/api/models/([^/]+/[^/]+)/revision/([^/]+)", _Handler.model),
    (r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", _Handler.resolve),
    (r"/v2/([^/]+/[^/]+)/manifests/([^/]+)", _Handler.manifest),
    (r"/v2/([^/]+/[^/]+)/blobs/sha256:([0-9a-f]+)", _Handler.blob),
    (_ASKED, _Handler.token),
    (r"/file/([0-9a-f]+)", _Handler.file),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, host: str, hub: type[_Handler], context: ssl.SSLContext) -> None:
        super().__init__((host, 0), hub)
        self._context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread, so that nobody waits for another one's handshake."""
        with self._context.wrap_socket(request, server_side=True) as wrapped:
            super().finish_request(wrapped, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave."""


@cache
def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def lfs(content: bytes) -> dict[str, Any]:
    return {"sha256": sha256(content), "size": len(content), "pointerSize": 134}


def layer(content: bytes, kind: str = "model") -> dict[str, Any]:
    digest = f"sha256:{sha256(content)}"
    return {"mediaType": f"application/vnd.ollama.image.{kind}", "digest": digest, "size": len(content)}


def certificate(folder: Path) -> tuple[Path, Path]:
    """A new one of an authority of its own, for this machine's names, and its key; where there is no openssl, the one
    that other tests have, too."""
    if shutil.which("openssl") is None:
        return KEPT / "cert.pem", KEPT / "key.pem"
    cert, key = folder / "cert.pem", folder / "key.pem"
    made = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=hub"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*made.split(), *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


@contextmanager
def running_hub(folder: Path) -> Iterator[Hub]:
    """Until the block ends. `environ` is what a program needs to use it."""
    folder.mkdir(parents=True, exist_ok=True)
    cert, key = certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)

    class Handler(_Handler):
        """With a hub of its own."""

    with _Server("127.0.0.1", Handler, context) as one, _Server("127.0.0.1", Handler, context) as other:
        # The same address under another name is another host.
        origin, files = f"127.0.0.1:{one.server_port}", f"localhost:{other.server_port}"
        environ = {"HF_ENDPOINT": f"https://{origin}", "SHIMMY_PULL_HOSTS": files, "SSL_CERT_FILE": str(cert)}
        # A proxy to the internet is no way to this machine.
        environ |= NO_PROXIES
        hub = Hub(environ, origin, files)
        Handler.hub = hub
        threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in (one, other)]
        for thread in threads:
            thread.start()
        try:
            yield hub
        finally:
            for server in (one, other):
                server.shutdown()
            for thread in threads:
                thread.join()


def noise(num_bytes: int, seed: int = 0) -> bytes:
    """The same bytes for the same seed."""
    return hashlib.shake_128(str(seed).encode()).digest(num_bytes)


def with_hub(hub: Hub, store: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    return {**environ, **hub.environ, "SHIMMY_STORE": str(store)}
