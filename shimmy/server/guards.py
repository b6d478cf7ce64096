"""Who may come in: everyone is refused who is not let in here. Looks at the matched route and the headers only, never
at a URL put together from them. docs/security.md has the order of what is checked.
"""

from collections.abc import Callable, Iterable

from starlette.types import Scope

from shimmy.core.errors import Forbidden, RequestError
from shimmy.core.keys import EVERYTHING, INFER, ApiKey
from shimmy.server.keyring import Caller, Headers, Keyring
from shimmy.server.listen import is_loopback, is_unix
from shimmy.server.origins import Header, Origins, cors_headers, origin_of

# Names that no page of the web can have (RFC 6761, RFC 6762, and ICANN's resolution 2024.07.29.06).
_LOCAL_DOMAINS = (".localhost", ".local", ".internal")


class Guard:
    """Keys, when there are any; on a loopback address the names it may be called by (against DNS rebinding); and the
    pages that may use it, unless it takes a key that no page has to reach it from elsewhere."""

    def __init__(
        self,
        api_keys: Iterable[ApiKey],
        host: str,
        address: str,
        *,
        origins: tuple[str, ...] = (),
        salt: bytes | None = None,
    ) -> None:
        """`host` is what the server was told to bind, `address` the IP address that came of it, or both the path of a
        UNIX socket. `origins` may use it besides the usual ones."""
        self._host = host
        self._origins = Origins(origins)
        self._keyring = Keyring(api_keys, salt)
        self._checks: list[Callable[[Scope, Headers], None]] = [_check_framing]
        if is_loopback(address):
            self._checks.append(self._check_host)
        if is_loopback(address) or not self._keyring:
            self._checks.append(self._check_origin)
        self._anyone = Caller("", "", EVERYTHING if is_loopback(address) or is_unix(address) else INFER)

    @property
    def tenants(self) -> dict[str, ApiKey]:
        return self._keyring.keys

    def replace_keys(self, api_keys: Iterable[ApiKey]) -> None:
        self._keyring.replace(api_keys)

    def cors(self, scope: Scope) -> list[Header]:
        """What every answer to this request has, an error too, so that a page that is allowed can read it."""
        headers = dict(scope["headers"])
        if b"origin" not in headers:
            return []
        vary = [(b"vary", b"origin")]
        return [*cors_headers(headers), *vary] if self._allows(scope, headers) else vary

    def enter(self, scope: Scope) -> None:
        """Raises the `ShimmyError` that the request is to be refused with, whoever sent it."""
        headers = dict(scope["headers"])
        for check in self._checks:
            check(scope, headers)

    def check_preflight(self, scope: Scope) -> None:
        if not self._allows(scope, dict(scope["headers"])):
            raise _foreign(origin_of(dict(scope["headers"])))

    def identify(self, scope: Scope) -> Caller:
        """Raises `Unauthorized` where a key is needed and there is none, or a wrong one."""
        return self._keyring.find(dict(scope["headers"])) if self._keyring else self._anyone

    @staticmethod
    def permit(caller: Caller, needed: str | None) -> None:
        """Raises `Forbidden` unless the caller may use a route that declares that scope; nobody may use one that
        declares none."""
        if needed is None:
            raise Forbidden("this route does not say who may use it, so nobody may")
        if needed not in caller.scopes:
            raise Forbidden(f"this takes the scope {needed!r}, which {_lacking(caller)}")

    def _check_host(self, scope: Scope, headers: Headers) -> None:
        host = _name(headers.get(b"host", b""))
        if not (host in ("localhost", self._host) or host.endswith(_LOCAL_DOMAINS) or _is_private(host)):
            raise Forbidden(f"host {host!r} is not served on a loopback address")

    def _check_origin(self, scope: Scope, headers: Headers) -> None:
        if b"origin" in headers and not self._allows(scope, headers):
            raise _foreign(origin_of(headers))

    def _allows(self, scope: Scope, headers: Headers) -> bool:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        return self._origins.allows(origin_of(headers), scope["scheme"], host)


def _lacking(caller: Caller) -> str:
    return "this API key does not have" if caller.tenant else "a server that others can reach gives to API keys only"


def _foreign(origin: str) -> Forbidden:
    return Forbidden(f"pages of {origin!r} may not use this server; --cors-origin allows them")


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
