"""The proxy through which a pull reaches a host, where variables name one, as curl reads them. Owns what they mean and
the CONNECT that opens a tunnel; what goes through it is TLS, which a proxy can neither read nor change."""

import re
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from shimmy.core.errors import PullFailed, RequestError
from shimmy.core.secret import Secret

if TYPE_CHECKING:
    from shimmy.store.hosts import Origin

# The first that is set wins.
_VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
_EXCEPTIONS = ("no_proxy", "NO_PROXY")
# curl's, where the URL has none.
_PORT = 1080
_MAX_HEAD_BYTES = 16 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: ([^\r\n]*))?\r?\n")
_BUSY = (408, 429, 500, 502, 503, 504)


class Refused(OSError):
    """The proxy does not reach the host now: worth another try."""


class Proxy(msgspec.Struct, frozen=True):
    """`variable` is what named it; `authorization` is the value of that header. `exceptions` are hosts, domains and
    networks that are reached without it."""

    variable: str
    host: str
    port: int
    authorization: Secret | None = None
    exceptions: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"the proxy {self.host}:{self.port} ({self.variable})"

    def serves(self, origin: "Origin") -> bool:
        """Whether a host is reached through it."""
        return not any(_means(entry, origin) for entry in self.exceptions)

    def open_tunnel(self, connection: socket.socket, origin: "Origin", seconds: float) -> None:
        """Over a connection with the proxy, which is one with the host afterwards. Raises `PullFailed` where that is
        not allowed, `OSError` where it is not possible now."""
        target = f"[{origin.host}]:{origin.port}" if ":" in origin.host else f"{origin.host}:{origin.port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self.authorization is not None:
            lines.append(f"Proxy-Authorization: {bytes(self.authorization.value).decode('ascii')}")
        connection.sendall("\r\n".join([*lines, "", ""]).encode("ascii"))
        status, reason = self._answer(connection, time.monotonic() + seconds)
        if 200 <= status < 300:
            return
        said = f"{self} answers with status {status} {reason}".rstrip()
        if status == 407:
            raise PullFailed(f"{said}: it wants another user and password than {self.variable} has")
        raise Refused(said) if status in _BUSY else PullFailed(f"{said} for {origin}")

    def _answer(self, connection: socket.socket, until: float) -> tuple[int, str]:
        """Status and reason. Nothing can have come after the head: who is behind it waits for us to speak."""
        head = b""
        while not head.endswith((b"\r\n\r\n", b"\n\n")):
            connection.settimeout(max(until - time.monotonic(), 0.001))
            try:
                piece = connection.recv(_MAX_HEAD_BYTES)
            except TimeoutError:
                raise Refused(f"{self} does not answer") from None
            head += piece
            status = _STATUS.match(head)
            # What refuses may go on with a page about that, which nobody reads.
            if status and not status[1].startswith(b"2"):
                break
            if not piece or len(head) > _MAX_HEAD_BYTES:
                raise Refused(f"{self} does not answer as a proxy does")
        match = _STATUS.match(head)
        if not match:
            raise Refused(f"{self} does not answer as a proxy does")
        reason = (match[2] or b"").decode("latin-1")
        return int(match[1]), "".join(filter(str.isprintable, reason))[:100]


def proxy_from(environ: Mapping[str, str]) -> Proxy | None:
    """What the variables name. Raises `RequestError` for one of a kind that is not used here; its value, which may
    have a password, is in no message."""
    variable = next((name for name in _VARIABLES if environ.get(name, "").strip()), None)
    if variable is None:
        return None
    from base64 import b64encode
    from urllib.parse import unquote, urlsplit

    text = environ[variable].strip()
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port or _PORT
    except ValueError:
        raise RequestError(f"{variable} is no URL of a proxy") from None
    if parts.scheme != "http":
        raise RequestError(f"{variable}: proxies of the kind {parts.scheme[:20]}:// are not supported, only http://")
    # A password with characters that end a URL's host: a part of it would pass for that, and be shown.
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":
        raise RequestError(f"{variable}: special characters of a user and password have to be escaped, like %23 for #")
    if not host or not host.isascii() or not host.isprintable():
        raise RequestError(f"{variable} is no URL of a proxy")
    authorization = None
    if parts.username is not None:
        both = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = Secret(b"Basic " + b64encode(both))
    exceptions = next((environ[name] for name in _EXCEPTIONS if environ.get(name)), "")
    return Proxy(variable, host, port, authorization, tuple(re.split(r"[\s,]+", exceptions.strip().lower())))


def _means(entry: str, origin: "Origin") -> bool:
    """One of NO_PROXY: `*`, a host with those below it, an address, a network in CIDR form; a port may follow."""
    if entry == "*":
        return True
    match = re.fullmatch(r"(\[[0-9a-f:]+\]|[^:]*):([0-9]+)", entry)
    if match and int(match[2]) != origin.port:
        return False
    name = (match[1] if match else entry).strip("[]").strip(".")
    if not name:
        return False
    return origin.host == name or origin.host.endswith(f".{name}") or _is_within(origin.host, name)


def _is_within(host: str, network: str) -> bool:
    from ipaddress import ip_address, ip_network

    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
