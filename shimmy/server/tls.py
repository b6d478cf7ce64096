"""The certificate that the server shows, and what of TLS it speaks. Imported for a server that has one, and only then:
OpenSSL is large.
"""

import ssl

from shimmy.core.exit_codes import USAGE
from shimmy.server.listen import StartError

# With TLS 1.2, only what RFC 9113 lets HTTP/2 use; the three of TLS 1.3 are always on.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def server_context(certificate: str, key: str) -> ssl.SSLContext:
    """From two PEM files: the certificate with those that vouch for it, and its key. Raises `StartError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2", "http/1.1"])
    for path in (certificate, key):
        _check_readable(path)
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except _Encrypted:
        raise StartError(f"the key {key} is encrypted, and nobody is there to type a password", USAGE) from None
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror
        raise StartError(f"cannot use the certificate {certificate} with the key {key}: {reason}", USAGE) from None
    return context


def client_context() -> ssl.SSLContext:
    """For this server's own look at itself, which needs no proof of who it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _check_readable(path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise StartError(f"cannot read {path}: {error.strerror}", USAGE) from None


class _Encrypted(Exception):
    pass


def _refuse_password() -> str:
    raise _Encrypted
