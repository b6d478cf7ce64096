"""ChaCha20-Poly1305 (RFC 8439) over a file in chunks, through PyNaCl, which is imported here and only when used.

The construction is STREAM, as in age: every file has a key of its own, derived from a random salt, and a chunk's nonce
is its number and whether it is the last. So no nonce is ever used twice with one key, and chunks that were reordered,
left out or cut off do not open. The header is associated data of every chunk.
"""

from hashlib import blake2b

SALT_BYTES = 32
TAG_BYTES = 16


class Unopened(Exception):
    """Not what was sealed with this key, header and place."""


class Sealer:
    """Seals, or opens, the chunks of one file in order."""

    def __init__(self, key: bytes, salt: bytes, header: bytes) -> None:
        self._key = blake2b(salt, key=key, digest_size=32, person=b"shimmy-file").digest()
        self._header = header
        self._num_chunks = 0

    def seal(self, chunk: bytes, *, last: bool) -> bytes:
        """`TAG_BYTES` longer than `chunk`."""
        from nacl.bindings import crypto_aead_chacha20poly1305_ietf_encrypt

        return crypto_aead_chacha20poly1305_ietf_encrypt(chunk, self._header, self._nonce(last), self._key)

    def open(self, chunk: bytes, *, last: bool) -> bytes:
        """Raises `Unopened`."""
        from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt
        from nacl.exceptions import CryptoError

        try:
            return crypto_aead_chacha20poly1305_ietf_decrypt(chunk, self._header, self._nonce(last), self._key)
        except CryptoError as error:
            raise Unopened from error

    def _nonce(self, last: bool) -> bytes:
        number = self._num_chunks
        self._num_chunks += 1
        return number.to_bytes(11, "big") + bytes([last])
