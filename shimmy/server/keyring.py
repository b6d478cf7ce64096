"""The API keys of this server, as digests, and whose request one is. Which headers a key comes in is known here, and
nowhere else.
"""

import os
from collections.abc import Iterable

import msgspec

from shimmy.core.errors import Unauthorized
from shimmy.core.keys import ApiKey, sha256

_TENANT_CHARS = 16

Headers = dict[bytes, bytes]


class Caller(msgspec.Struct, frozen=True):
    """Whose request it is. `tenant` is a name for the key that does not tell the key, and lasts as long as the salt; ""
    where no key is needed. `name` is what the log calls the key."""

    tenant: str
    name: str
    scopes: frozenset[str]


class Keyring:
    """Owns the keys; a caller is found by the key that came with the request, and by nothing else."""

    def __init__(self, keys: Iterable[ApiKey], salt: bytes | None = None) -> None:
        """The names of tenants are made with `salt`, by default a new one."""
        self._salt = salt or os.urandom(16)
        self.replace(keys)

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """These keys from now on; requests that are under way go on."""
        self.keys = {self._tenant(key): key for key in keys}

    def __bool__(self) -> bool:
        return bool(self.keys)

    def find(self, headers: Headers) -> Caller:
        """Raises `Unauthorized`."""
        from hmac import compare_digest

        offered = [sha256(key) for key in _offered(headers)]
        if not offered:
            raise Unauthorized("an API key is needed: 'Authorization: Bearer KEY' or 'x-api-key: KEY'")
        # All are compared, whichever matches: how long it takes tells nothing.
        matching = [
            Caller(tenant, key.name, key.scopes)
            for tenant, key in self.keys.items()
            for digest in offered
            if compare_digest(key.digest, digest)
        ]
        if not matching:
            raise Unauthorized("the API key is not valid")
        return matching[0]

    def _tenant(self, key: ApiKey) -> str:
        return sha256(self._salt + key.digest).hex()[:_TENANT_CHARS]


def _offered(headers: Headers) -> list[bytes]:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    bearer = [token.strip()] if scheme.lower() == b"bearer" else []
    return bearer + [headers[name] for name in (b"x-api-key",) if name in headers]
