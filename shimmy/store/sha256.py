"""SHA-256 at the speed of this processor: OpenSSL's, which is loaded anyway once a pull speaks TLS. The executable's
hashlib has only the interpreter's own, several times slower, which also keeps all other threads waiting."""

import hashlib
import os
from functools import cache
from typing import Any, Protocol


class Hash(Protocol):
    def update(self, data: bytes, /) -> object: ...
    def hexdigest(self) -> str: ...


def sha256() -> Hash:
    """A new one, of nothing yet."""
    usual = hashlib.sha256()
    if type(usual).__module__ == "_hashlib":
        return usual
    library = libcrypto()
    return LibcryptoHash(library) if library is not None else usual


@cache
def libcrypto() -> Any:
    """The one that TLS uses; None where it is not a library of its own, or TLS is not there."""
    import ctypes
    from ctypes import c_char_p, c_int, c_size_t, c_void_p

    try:
        import ssl

        major = ssl.OPENSSL_VERSION_INFO[0]
        name = f"libcrypto.so.{major if major > 1 else '1.1'}"
        # No other one: what is not there yet is not looked for.
        library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
        library.EVP_sha256.restype = library.EVP_MD_CTX_new.restype = c_void_p
        library.EVP_sha256.argtypes = library.EVP_MD_CTX_new.argtypes = ()
        library.EVP_DigestInit_ex.argtypes = (c_void_p, c_void_p, c_void_p)
        library.EVP_DigestUpdate.argtypes = (c_void_p, c_char_p, c_size_t)
        library.EVP_DigestFinal_ex.argtypes = (c_void_p, c_char_p, c_void_p)
        library.EVP_MD_CTX_free.argtypes, library.EVP_MD_CTX_free.restype = (c_void_p,), None
        for function in (library.EVP_DigestInit_ex, library.EVP_DigestUpdate, library.EVP_DigestFinal_ex):
            function.restype = c_int
    except (ImportError, OSError, AttributeError):
        return None
    return library


class LibcryptoHash:
    """One, for one thread at a time. It is computed without the interpreter's lock."""

    def __init__(self, library: Any) -> None:
        from weakref import finalize

        self._library = library
        self._digest: str | None = None
        self._context = library.EVP_MD_CTX_new()
        self._done(bool(self._context))
        # Not as the interpreter ends: a thread that it does not wait for may still be at work.
        finalize(self, library.EVP_MD_CTX_free, self._context).atexit = False
        self._done(library.EVP_DigestInit_ex(self._context, library.EVP_sha256(), None))

    def update(self, data: bytes) -> None:
        """Not once its digest was asked for."""
        self._done(self._library.EVP_DigestUpdate(self._context, data, len(data)))

    def hexdigest(self) -> str:
        import ctypes

        if self._digest is None:
            digest = ctypes.create_string_buffer(32)
            self._done(self._library.EVP_DigestFinal_ex(self._context, digest, None))
            self._digest = digest.raw.hex()
        return self._digest

    def _done(self, result: int) -> None:
        if result != 1:
            raise MemoryError("OpenSSL computes no SHA-256")
