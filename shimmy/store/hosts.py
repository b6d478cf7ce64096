"""Which machines a pull may talk to. Names come from requests, manifests and redirects; none of them may make this
machine reach into its own network, or tell anyone else a token.
"""

import re
import socket
from collections.abc import Callable, Mapping

import msgspec

from shimmy.core.errors import Forbidden, PullFailed, RequestError
from shimmy.core.ollama_names import OLLAMA_HOST
from shimmy.store.ollama_key import Key, read_key
from shimmy.store.proxy import Proxy, proxy_from

HTTPS = 443
_HUB = "https://huggingface.co"
# The hub and where it keeps its files; Ollama's registry, where that keeps its blobs, and who hands out its tokens.
_KNOWN = ("huggingface.co", "hf.co", "ollama.ai", "ollama.com", "r2.cloudflarestorage.com")
_OLLAMA = ("ollama.ai", "ollama.com")
_AS_THEY_ARE = "/?%:@!$&'()*+,;=~-._"
_ENTRY = re.compile(r"(?P<host>[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\])(?::(?P<port>[0-9]{1,5}))?")

Resolve = Callable[[str, int], list[str]]


class Origin(msgspec.Struct, frozen=True, order=True):
    """What a token belongs to. The scheme is always https."""

    host: str
    port: int = HTTPS

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTPS else f"{host}:{self.port}"


class Url(msgspec.Struct, frozen=True):
    """An https URL; `target` is the path with the query."""

    origin: Origin
    target: str

    def __str__(self) -> str:
        return f"https://{self.origin}{self.target}"


def parse_url(text: str) -> Url:
    """Raises `Forbidden` for what is not plain https: other schemes, users in it, odd hosts."""
    from urllib.parse import quote, urlsplit

    try:
        parts = urlsplit(text)
        host, port = (parts.hostname or "").rstrip("."), parts.port or HTTPS
    except ValueError as error:
        raise Forbidden(f"{text[:200]!r} is no URL: {error}") from None
    is_host = _ENTRY.fullmatch(f"[{host}]" if ":" in host else host)
    if parts.scheme != "https" or parts.username is not None or not is_host:
        raise Forbidden(f"{text[:200]!r} is not fetched: only https URLs of a host are")
    # What is escaped stays so; what cannot stand in a request line becomes so.
    path = quote(parts.path or "/", safe=_AS_THEY_ARE)
    return Url(Origin(host, port), f"{path}?{quote(parts.query, safe=_AS_THEY_ARE)}" if parts.query else path)


def origin_of(text: str) -> Origin:
    """`host` or `host:port`. Raises `RequestError`."""
    match = _ENTRY.fullmatch(text.strip().lower())
    if not match or not 0 < int(match["port"] or HTTPS) < 1 << 16:
        raise RequestError(f"{text[:80]!r} is no HOST or HOST:PORT")
    return Origin(match["host"].strip("[]"), int(match["port"] or HTTPS))


class Hosts(msgspec.Struct, frozen=True):
    """`hub` is Hugging Face, or what HF_ENDPOINT has in its place; `named` are hosts that the user of this machine
    named, which may be private. `token` is for the hub alone. `proxy` is for all that it does not leave out.
    `ollama_key` is for Ollama's registry and those that were named, and `ollama_key_trouble` says why it cannot be
    used."""

    hub: Url
    named: frozenset[Origin] = frozenset()
    token: str | None = None
    proxy: Proxy | None = None
    ollama_key: Key | None = None
    ollama_key_trouble: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Hosts":
        """Raises `RequestError` for a variable that makes no sense."""
        named = {origin_of(entry) for entry in re.split(r"[\s,]+", environ.get("SHIMMY_PULL_HOSTS", "")) if entry}
        endpoint = environ.get("HF_ENDPOINT")
        try:
            hub = parse_url((endpoint or _HUB).rstrip("/"))
        except Forbidden as error:
            raise RequestError(f"HF_ENDPOINT: {error.message}") from None
        token = environ.get("HF_TOKEN", "").strip()
        if token and not (token.isascii() and token.isprintable()):
            raise RequestError("HF_TOKEN is no token: it has characters that none has")
        if endpoint:
            named.add(hub.origin)
        key, trouble = None, ""
        try:
            key = read_key(environ)
        except ValueError as error:
            trouble = str(error)
        return cls(hub, frozenset(named), token or None, proxy_from(environ), key, trouble)

    def check(self, origin: Origin) -> None:
        """Raises `Forbidden` unless this is a known host, or one that was named."""
        if origin in self.named:
            return
        if _is_within(origin, _KNOWN):
            return
        raise Forbidden(
            f"{origin} is not among the hosts that models come from; SHIMMY_PULL_HOSTS={origin} would make it one"
        )

    def key_for(self, registry: Origin, asked: Origin) -> Key | None:
        """What signs who asks `asked` for a token for `registry`. They must be the same, or both Ollama's: what is
        handed out to this user would be told to somebody else."""
        is_own = registry == asked and registry in self.named
        return self.ollama_key if is_own or (_is_within(registry, _OLLAMA) and _is_within(asked, _OLLAMA)) else None

    def proxy_to(self, origin: Origin) -> Proxy | None:
        """Through what a host is reached; None for a connection of our own."""
        return self.proxy if self.proxy is not None and self.proxy.serves(origin) else None

    def addresses(self, origin: Origin, resolve: Resolve | None = None) -> list[str]:
        """Where to connect to: addresses that were looked up once and are public, unless the host was named.

        Raises `Forbidden`, `PullFailed` for what cannot have any, `OSError` where there are none now.
        """
        try:
            found = (resolve or _resolve)(origin.host, origin.port)
        except UnicodeError as error:
            raise PullFailed(f"{origin.host} has no address: {error}") from None
        allowed = found if origin in self.named else [address for address in found if is_public(address)]
        if found and not allowed:
            raise Forbidden(
                f"{origin.host} is at {found[0]}, which is no public address; nothing is fetched from there"
            )
        if not allowed:
            raise OSError("nobody knows one")
        return allowed


def _is_within(origin: Origin, domains: tuple[str, ...]) -> bool:
    return origin.port == HTTPS and any(origin.host == each or origin.host.endswith(f".{each}") for each in domains)


def registry(host: str) -> Origin:
    """Of a name's host part."""
    return origin_of(host or OLLAMA_HOST)


def is_public(address: str) -> bool:
    """Whether this IP address is anybody's on the internet, also where it is written within an IPv6 address."""
    from ipaddress import IPv4Address, IPv6Address, ip_address

    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address):
        if ip.is_site_local or ip.packed[:12] == bytes(12) or ip.packed[:6] == bytes.fromhex("0064ff9b0001"):
            return False
        inner: IPv4Address | IPv6Address | None = (
            ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        )
        # 64:ff9b::/96: what a network without IPv4 makes of an IPv4 address (RFC 6052).
        if inner is None and ip.packed[:12] == bytes.fromhex("0064ff9b0000000000000000"):
            inner = ip_address(ip.packed[12:])
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _resolve(host: str, port: int) -> list[str]:
    """In the order that the system prefers."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
