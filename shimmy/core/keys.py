"""Who may do what: the scope that each route declares, and an API key as the server keeps it, which is its digest.

Knows no headers and no files.
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

Scope = Literal["public", "infer", "admin"]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])

_ATTRIBUTE = "needed_scope"
INFER = frozenset({"infer"})
EVERYTHING = frozenset({"infer", "admin"})


class ApiKey(msgspec.Struct, frozen=True):
    """`digest` is the key's SHA-256. The limits are for all requests with this key together; None is no limit."""

    digest: bytes
    name: str = ""
    scopes: frozenset[str] = EVERYTHING
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None

    @classmethod
    def of(cls, key: str, **fields: Any) -> "ApiKey":
        return cls(sha256(key.encode()), **fields)


def public(endpoint: Endpoint) -> Endpoint:
    """Declares that a route is for everyone. An endpoint that declares nothing is for nobody."""
    return _declared(endpoint, "public")


def infer(endpoint: Endpoint) -> Endpoint:
    """Declares that a route uses models, or tells about them."""
    return _declared(endpoint, "infer")


def admin(endpoint: Endpoint) -> Endpoint:
    """Declares that a route changes the server, or tells what others do on it."""
    return _declared(endpoint, "admin")


def needed_scope(endpoint: Any) -> Scope | None:
    """What the endpoint of a route declares; None if it forgot to."""
    scope: Scope | None = getattr(endpoint, _ATTRIBUTE, None)
    return scope


def sha256(content: bytes) -> bytes:
    from hashlib import sha256

    return sha256(content).digest()


def _declared(endpoint: Endpoint, scope: Scope) -> Endpoint:
    setattr(endpoint, _ATTRIBUTE, scope)
    return endpoint
