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
from shimmy.store.waiting import MAX_SECONDS, seconds_to_wait

if TYPE_CHECKING:
    import http.client
    import ssl

    from shimmy.store.proxy import Proxy

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
    """The connection, or a host with too much to do, is at fault: worth another try, in `wait_seconds` if the host said
    when."""

    def __init__(self, message: str, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class Answer:
    """Status, headers and a body that is read once; `url` is where it came from in the end."""

    def __init__(self, url: Url, response: "http.client.HTTPResponse") -> None:
        self.url = url
        self.status = response.status
        self._response = response

    def header(self, name: str) -> str:
        return self._response.headers.get(name, "")

    def failure(self) -> Broken | PullFailed:
        """What a status that means no success is to be raised as."""
        said = f"{self.url.origin} answers with status {self.status}"
        if self.status not in (408, 429) and self.status < 500:
            return PullFailed(said)
        seconds = seconds_to_wait(self.header)
        if seconds is not None and seconds > MAX_SECONDS:
            return PullFailed(f"{said}, and wants to be asked again in {seconds:.0f} s; what has arrived is kept")
        return Broken(said, seconds)

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
        self, url: Url, headers: Mapping[str, str] | None = None, authorization: tuple[Origin, str] | None = None
    ) -> Iterator[Answer]:
        """Follows redirects. `authorization` is that header, after the only origin that is told it.

        Raises `Forbidden` for hosts that are not talked to, `PullFailed` for what goes round in circles, `Broken`.
        """
        for _ in range(MAX_REDIRECTS + 1):
            with self._request(url, headers or {}, authorization) as answer:
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
    def _request(
        self, url: Url, headers: Mapping[str, str], authorization: tuple[Origin, str] | None
    ) -> Iterator[Answer]:
        from http.client import HTTPConnection

        sent = {
            "Host": str(url.origin),
            "User-Agent": f"shimmy/{__version__}",
            # What is compressed could become anything of any size.
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        if authorization and authorization[0] == url.origin:
            sent["Authorization"] = authorization[1]
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
        """Speaks TLS with one of the addresses that were checked, or through a proxy, and proves that it is the
        host."""
        self.hosts.check(origin)
        proxy = self.hosts.proxy_to(origin)
        plain = self._dial_proxy(proxy) if proxy else self._dial(origin)
        wrapped: socket.socket = plain
        try:
            self._note(plain)
            with _as_broken(origin):
                if proxy:
                    proxy.open_tunnel(plain, origin, CONNECT_SECONDS)
                plain.settimeout(STALL_SECONDS)
                wrapped = encrypted = self._context.wrap_socket(
                    plain, server_hostname=origin.host, do_handshake_on_connect=False
                )
                self._note(encrypted)
                encrypted.do_handshake()
            yield wrapped
        finally:
            with self._lock:
                self._sockets -= {plain, wrapped}
            wrapped.close()
            plain.close()

    def _note(self, connection: socket.socket) -> None:
        """From now on `cancel` ends it."""
        with self._lock:
            self._sockets.add(connection)
        if self.cancelled.is_set():
            raise Cancelled

    def _dial(self, origin: Origin) -> socket.socket:
        failure: OSError | None = None
        try:
            addresses = self.hosts.addresses(origin)
        except OSError as error:
            # Who lost the network for a moment has no name server either.
            raise Broken(f"{origin.host} has no address: {error.strerror or error}") from None
        for address in addresses:
            if self.cancelled.is_set():
                raise Cancelled
            try:
                return socket.create_connection((address, origin.port), timeout=CONNECT_SECONDS)
            except OSError as error:
                failure = error
        raise Broken(f"cannot connect to {origin}: {failure and (failure.strerror or failure)}")

    def _dial_proxy(self, proxy: "Proxy") -> socket.socket:
        """Who named it may have one at any address."""
        try:
            return socket.create_connection((proxy.host, proxy.port), timeout=CONNECT_SECONDS)
        except (OSError, UnicodeError) as error:
            raise Broken(f"cannot connect to {proxy}: {getattr(error, 'strerror', None) or error}") from None


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
