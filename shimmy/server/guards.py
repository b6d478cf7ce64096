"""Who may come in: everyone is refused who is not let in here. Looks at the path and the headers only, never at a URL
put together from them.
"""

import os
from collections.abc import Callable

from starlette.types import Scope

from shimmy.core.errors import Forbidden, RequestError, Unauthorized
from shimmy.server.listen import is_loopback

_PUBLIC = frozenset({"/health", "/readyz", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
_WEB = ("http://", "https://")
_TENANT_CHARS = 16

Headers = dict[bytes, bytes]


class Guard:
    """Keys, when there are any, and on a loopback address the names a browser may use for it (against DNS rebinding,
    and pages of elsewhere that post to it)."""

    def __init__(self, api_keys: tuple[str, ...], host: str, address: str, salt: bytes | None = None) -> None:
        """`host` is what the server was told to bind, `address` the IP address that came of it. The names of tenants
        are made with `salt`, by default a new one."""
        self._host = host
        self._checks: list[Callable[[Scope, Headers], None]] = [_check_framing]
        if is_loopback(address):
            self._checks.append(self._check_names)
        self._tenants = _tenants(api_keys, salt or os.urandom(16)) if api_keys else {}

    def check(self, scope: Scope) -> str:
        """Raises the `ShimmyError` that the request is to be refused with. Returns whose request it is: a name for the
        key that does not tell the key, and lasts as long as the salt; "" where no key is needed."""
        headers = dict(scope["headers"])
        for check in self._checks:
            check(scope, headers)
        return self._tenant(scope, headers) if self._tenants else ""

    def _check_names(self, scope: Scope, headers: Headers) -> None:
        host = _name(headers.get(b"host", b""))
        if not self._is_ours(host):
            raise Forbidden(f"host {host!r} is not served on a loopback address")
        origin = headers.get(b"origin", b"").decode("latin-1").lower()
        if origin == "null" or origin.startswith(_WEB) and not self._is_ours(_name(origin.split("://")[1].encode())):
            raise Forbidden(f"origin {origin!r} may not use a server on a loopback address")

    def _is_ours(self, name: str) -> bool:
        return name in ("localhost", self._host) or name.endswith(".localhost") or _is_private(name)

    def _tenant(self, scope: Scope, headers: Headers) -> str:
        from hmac import compare_digest

        if scope["path"] in _PUBLIC:
            return ""
        offered = [_sha256(key) for key in _keys(headers)]
        if not offered:
            raise Unauthorized("an API key is needed: 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        # All are compared, whichever matches: how long it takes tells nothing.
        matching = [self._tenants[one] for one in self._tenants for other in offered if compare_digest(one, other)]
        if not matching:
            raise Unauthorized("the API key is not valid")
        return matching[0]


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


def _tenants(api_keys: tuple[str, ...], salt: bytes) -> dict[bytes, str]:
    """The tenant of each key, by the key's digest."""
    return {_sha256(key.encode()): _sha256(salt + key.encode()).hex()[:_TENANT_CHARS] for key in api_keys}


def _sha256(key: bytes) -> bytes:
    from hashlib import sha256

    return sha256(key).digest()
