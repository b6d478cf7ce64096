"""Who may come in: everyone is refused who is not let in here. Looks at the path and the headers only, never at a URL
put together from them.
"""

from collections.abc import Callable

from starlette.types import Scope

from shimmy.core.errors import Forbidden, RequestError, Unauthorized
from shimmy.server.listen import is_loopback

_PUBLIC = frozenset({"/health", "/readyz"})
_WEB = ("http://", "https://")

Headers = dict[bytes, bytes]


class Guard:
    """Keys, when there are any, and on a loopback address the names a browser may use for it (against DNS rebinding,
    and pages of elsewhere that post to it)."""

    def __init__(self, api_keys: tuple[str, ...], host: str, address: str) -> None:
        """`host` is what the server was told to bind, `address` the IP address that came of it."""
        self._host = host
        self._checks: list[Callable[[Scope, Headers], None]] = [_check_framing]
        if is_loopback(address):
            self._checks.append(self._check_names)
        if api_keys:
            self._digests = [_sha256(key.encode()) for key in api_keys]
            self._checks.append(self._check_key)

    def check(self, scope: Scope) -> None:
        """Raises the `ShimmyError` that the request is to be refused with."""
        headers = dict(scope["headers"])
        for check in self._checks:
            check(scope, headers)

    def _check_names(self, scope: Scope, headers: Headers) -> None:
        host = _name(headers.get(b"host", b""))
        if not self._is_ours(host):
            raise Forbidden(f"host {host!r} is not served on a loopback address")
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin == "null" or origin.startswith(_WEB) and not self._is_ours(_name(origin.split("://")[1].encode())):
            raise Forbidden(f"origin {origin!r} may not use a server on a loopback address")

    def _is_ours(self, name: str) -> bool:
        return name in ("localhost", self._host) or name.endswith(".localhost") or _is_private(name)

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        from hmac import compare_digest

        if scope["path"] in _PUBLIC:
            return
        offered = [_sha256(key) for key in _keys(headers)]
        if not offered:
            raise Unauthorized("an API key is needed: 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        if not any([compare_digest(one, other) for one in self._digests for other in offered]):
            raise Unauthorized("the API key is not valid")


def _is_private(name: str) -> bool:
    """Whether this is an IP address, of a private network or of this machine."""
    import ipaddress

    try:
        return ipaddress.ip_address(name).is_private
    except ValueError:
        return False


def _check_framing(scope: Scope, headers: Headers) -> None:
    if b"content-length" in headers and b"transfer-encoding" in headers:
        raise RequestError("a request has a content-length or a transfer-encoding, not both")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RequestError("compressed request bodies are not accepted", param="content-encoding")


def _name(authority: bytes) -> str:
    """The host of `host`, `host:port`, `[v6]` or `[v6]:port`, lower case."""
    text = authority.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")


def _keys(headers: Headers) -> list[bytes]:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    bearer = [token.strip()] if scheme.lower() == b"bearer" else []
    return bearer + [headers[name] for name in (b"x-api-key",) if name in headers]


def _sha256(key: bytes) -> bytes:
    from hashlib import sha256

    return sha256(key).digest()
