"""One GET over TLS: to checked addresses only, through redirects that are checked again, each time without the token
unless it is for that very origin. It knows no hub.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from threading import Event, Lock
from typing import TYPE_CHECKING

from shimmy import __version__
from shimmy.core.errors import Forbidden, PullFailed, Unimplemented
from shimmy.store.hosts import Hosts, Origin, Url, parse_url

if TYPE_CHECKING:
    import http.client
    import ssl

CONNECT_SECONDS = 15.0
# Nothing, or hardly anything (pace.py), for as long is a connection that is dead.
STALL_SECONDS = 30.0
MAX_REDIRECTS = 5
MAX_DOCUMENT_BYTES = 16 << 20
_PIECE_BYTES = 64 << 10
# Of a number of bytes. Python makes no number of thousands of them.
_MAX_DIGITS = 18
_REDIRECTS = (301, 302, 303, 307, 308)
# Where distributions have the certificates of authorities, for an OpenSSL that was built elsewhere.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


class Cancelled(Exception):
    """Whoever wanted this no longer does."""


class Broken(Exception):
    """The connection, not the answer, is at fault: worth another try."""


class Answer:
    """Status, headers and a body that is read once; `url` is where it came from in the end."""

    def __init__(self, url: Url, response: "http.client.HTTPResponse") -> None:
        self.url = url
        self.status = response.status
        self._response = response

    def header(self, name: str) -> str:
        return self._response.headers.get(name, "")

    def readinto(self, buffer: memoryview) -> int:
        """0 at the end, also where that comes too early. Raises `Broken`."""
        with _as_broken(self.url.origin):
            return self._response.readinto(buffer)

    def document(self) -> bytes:
        """The whole body. Raises `PullFailed` for one that is too long for a document, `Broken` for one cut short."""
        content = bytearray()
        # Not `read`: that believes a chunk that says it has -1 bytes, and reads on for as long as anything comes.
        piece = memoryview(bytearray(_PIECE_BYTES))
        while count := self.readinto(piece):
            content += piece[:count]
            if len(content) > MAX_DOCUMENT_BYTES:
                raise PullFailed(f"{self.url.origin} answers with more than {MAX_DOCUMENT_BYTES} bytes")
        length = self.header("content-length")
        if length.isdecimal() and (len(length) > _MAX_DIGITS or len(content) < int(length)):
            raise Broken(f"{self.url.origin} closed the connection after {len(content)} of {length[:20]} bytes")
        return bytes(content)


class Client:
    """Safe from any thread. `cancel` ends what is under way, and all that comes later, with `Cancelled`."""

    def __init__(self, hosts: Hosts, context: "ssl.SSLContext") -> None:
        self.hosts = hosts
        self.cancelled = Event()
        self._context = context
        self._sockets: set[socket.socket] = set()
        self._lock = Lock()

    @contextmanager
    def get(
        self, url: Url, headers: Mapping[str, str] | None = None, bearer: tuple[Origin, str] | None = None
    ) -> Iterator[Answer]:
        """Follows redirects. `bearer` is a token with the only origin that is told it.

        Raises `Forbidden` for hosts that are not talked to, `PullFailed` for what goes round in circles, `Broken`.
        """
        for _ in range(MAX_REDIRECTS + 1):
            with self._request(url, headers or {}, bearer) as answer:
                location = answer.header("location")
                if answer.status not in _REDIRECTS or not location:
                    yield answer
                    return
            url = _joined(url, location)
        raise PullFailed(f"{url.origin} redirects more than {MAX_REDIRECTS} times")

    def cancel(self) -> None:
        self.cancelled.set()
        with self._lock:
            for each in self._sockets:
                # By another descriptor: an SSL object that is shut down goes on in plain text.
                with suppress(OSError), socket.socket(fileno=os.dup(each.fileno())) as same:
                    same.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _request(self, url: Url, headers: Mapping[str, str], bearer: tuple[Origin, str] | None) -> Iterator[Answer]:
        from http.client import HTTPConnection

        sent = {
            "Host": str(url.origin),
            "User-Agent": f"shimmy/{__version__}",
            # What is compressed could become anything of any size.
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        if bearer and bearer[0] == url.origin:
            sent["Authorization"] = f"Bearer {bearer[1]}"
        try:
            with ExitStack() as opened:
                connection = HTTPConnection(url.origin.host, url.origin.port)
                connection.sock = opened.enter_context(self._connected(url.origin))
                opened.callback(connection.close)
                with _as_broken(url.origin):
                    connection.putrequest("GET", url.target, skip_host=True, skip_accept_encoding=True)
                    for name, value in sent.items():
                        connection.putheader(name, value)
                    connection.endheaders()
                    response = connection.getresponse()
                # It keeps the connection open for as long as it is.
                opened.callback(response.close)
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise PullFailed(f"{url.origin} sends something compressed, which nobody asked for")
                yield Answer(url, response)
        except Broken:
            if self.cancelled.is_set():
                raise Cancelled from None
            raise

    @contextmanager
    def _connected(self, origin: Origin) -> Iterator[socket.socket]:
        """Speaks TLS with one of the addresses that were checked, and proves that it is the host."""
        self.hosts.check(origin)
        plain = self._plain(origin)
        wrapped: socket.socket = plain
        try:
            with _as_broken(origin):
                wrapped = encrypted = self._context.wrap_socket(
                    plain, server_hostname=origin.host, do_handshake_on_connect=False
                )
                with self._lock:
                    self._sockets.add(encrypted)
                if self.cancelled.is_set():
                    raise Cancelled
                encrypted.do_handshake()
            yield wrapped
        finally:
            with self._lock:
                self._sockets.discard(wrapped)
            wrapped.close()
            plain.close()

    def _plain(self, origin: Origin) -> socket.socket:
        failure: OSError | None = None
        try:
            addresses = self.hosts.addresses(origin)
        except OSError as error:
            # Who lost the network for a moment has no name server either.
            raise self._unreachable(f"{origin.host} has no address", error) from None
        for address in addresses:
            if self.cancelled.is_set():
                raise Cancelled
            try:
                found = socket.create_connection((address, origin.port), timeout=CONNECT_SECONDS)
            except OSError as error:
                failure = error
            else:
                found.settimeout(STALL_SECONDS)
                return found
        raise self._unreachable(f"cannot connect to {origin}", failure)

    def _unreachable(self, what: str, failure: OSError | None) -> Broken:
        hint = f"; {self.hosts.unused_proxy} is set, but a pull uses no proxy" if self.hosts.unused_proxy else ""
        return Broken(f"{what}: {failure and (failure.strerror or failure)}{hint}")


def tls_context(environ: Mapping[str, str]) -> "ssl.SSLContext":
    """Trusts whom the system trusts, or SSL_CERT_FILE and SSL_CERT_DIR say. Raises `Unimplemented` without OpenSSL."""
    try:
        import ssl

        from shimmy.store.pace import PacedSocket

        context = ssl.create_default_context()
    except ImportError as error:
        raise Unimplemented(f"this program was made without TLS: {error}") from None
    if not context.cert_store_stats()["x509_ca"] and not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & set(environ):
        for bundle in filter(os.path.exists, _BUNDLES):
            context.load_verify_locations(bundle)
            break
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = PacedSocket
    return context


def _joined(url: Url, location: str) -> Url:
    from urllib.parse import urljoin

    try:
        return parse_url(urljoin(str(url), location))
    except ValueError as error:
        raise Forbidden(f"{url.origin} redirects to {location[:200]!r}, which is no URL: {error}") from None


@contextmanager
def _as_broken(origin: Origin) -> Iterator[None]:
    """Nothing of a certificate that is wrong is worth another try."""
    from http.client import HTTPException
    from ssl import SSLCertVerificationError

    try:
        yield
    except SSLCertVerificationError as error:
        raise PullFailed(
            f"the certificate of {origin} is not trusted: {error.verify_message}; SSL_CERT_FILE may name authorities"
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        raise Broken(_reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing, or too little, came for {STALL_SECONDS:g} s"
    return str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error or type(error).__name__)
