"""Which entries a request may meet: those of one identity, one namespace and one key. Everything that tells two scopes
apart goes through keyed BLAKE2b, so that neither a file's name nor its content says which tokens it is about.
"""

from hashlib import blake2b

from shimmy.worker.prefix_tree import Tokens

KEY_BYTES = 32
_DIGEST_BYTES = 16
_TAG_BYTES = 8
_PRIVATE = "\0"


class Scope:
    """Names and keys for one (identity, namespace, key). It holds secrets: it is never logged and has no repr.

    `id` (32 bytes) stands in each header, `tag` (hex) starts each name; both say that two entries belong together, and
    no more. `seal_key` is None where entries are stored in the clear.
    """

    __slots__ = ("id", "tag", "seal_key", "_name_key")

    def __init__(self, identity: bytes, namespace: bytes, key: bytes | None) -> None:
        """Raises `ValueError` for a key that has not `KEY_BYTES` bytes."""
        if key is not None and len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
        self.id = _derive(b"scope", identity, namespace, key)
        self.tag = self.id[:_TAG_BYTES].hex()
        self.seal_key = _derive(b"seal", identity, namespace, key) if key is not None else None
        self._name_key = _derive(b"name", identity, namespace, key)

    def name(self, tokens: "Tokens[int]") -> str:
        """The file name of the entry for exactly these tokens."""
        digest = blake2b(tokens, key=self._name_key, digest_size=_DIGEST_BYTES)
        return f"{self.tag}-{digest.hexdigest()}.kv"


def private_namespace(namespace: str, key: bytes) -> str:
    """What `namespace` is called, in every tier, for those who bring this key. It does not show the key."""
    return f"{namespace}{_PRIVATE}{_derive(b'space', b'', b'', key).hex()}"


def is_private(namespace: str) -> bool:
    return _PRIVATE in namespace


def _derive(purpose: bytes, identity: bytes, namespace: bytes, key: bytes | None) -> bytes:
    """32 bytes that are independent for each purpose (BLAKE2's personalization, RFC 7693 section 2.5)."""
    state = blake2b(key=key or b"", digest_size=KEY_BYTES, person=b"shimmy-" + purpose)
    for part in (identity, namespace):
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()
