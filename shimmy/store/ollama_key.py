"""The key by which Ollama's registry knows this user: ~/.ollama/id_ed25519, which Ollama made. It signs who asks for a
token, and nothing else; this program makes no key."""

import os
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Mapping

import msgspec

from shimmy.core.secret import Secret

# As people write it.
NAME = "~/.ollama/id_ed25519"
_MAX_BYTES = 16 << 10
_BEGIN, _END = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
_MAGIC = b"openssh-key-v1\0"
_TYPE = b"ssh-ed25519"
# What Ollama signs in the place of a body: the digest of none, in hexadecimal.
_NO_BODY = b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


class Key(msgspec.Struct, frozen=True):
    """`public` in SSH's form, `private` the seed and the public key."""

    public: bytes
    private: Secret

    def authorization(self, url: str) -> str:
        """The header's value for a GET."""
        from nacl.bindings import crypto_sign, crypto_sign_BYTES

        text = b",".join((b"GET", url.encode("ascii"), b64encode(_NO_BODY)))
        signature = crypto_sign(text, self.private.value)[:crypto_sign_BYTES]
        return f"{b64encode(self.public).decode()}:{b64encode(signature).decode()}"


def read_key(environ: Mapping[str, str]) -> Key | None:
    """None where there is none. Raises `ValueError` for one that cannot be used."""
    try:
        home = environ.get("HOME") or os.path.expanduser("~")
        with open(NAME.replace("~", home, 1), "rb") as file:
            content = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ValueError(error.strerror) from None
    return parse_key(content.decode("ascii", "replace"))


def parse_key(text: str) -> Key:
    """OpenSSH's own format (PROTOCOL.key). Raises `ValueError`."""
    whole = " ".join(text.split())
    if not (whole.startswith(_BEGIN) and whole.endswith(_END)):
        raise ValueError("it is no private key in OpenSSH's format")
    try:
        outer = _Reader(b64decode(whole.removeprefix(_BEGIN).removesuffix(_END).replace(" ", ""), validate=True))
    except Error as error:
        raise ValueError(f"it is no private key: {error}") from None
    if outer.take(len(_MAGIC)) != _MAGIC:
        raise ValueError("it is no private key in OpenSSH's format")
    cipher, _, _ = outer.string(), outer.string(), outer.string()
    if cipher != b"none":
        raise ValueError("it has a password")
    if outer.number() != 1:
        raise ValueError("it is not one key")
    public, inner = outer.string(), _Reader(outer.string())
    if inner.number() != inner.number() or inner.string() != _TYPE:
        raise ValueError("it is no Ed25519 key")
    point, private = inner.string(), inner.string()
    if len(point) != 32 or private[32:] != point:
        raise ValueError("it is damaged")
    return Key(public, Secret(private))


class _Reader:
    """SSH's binary fields. Raises `ValueError` at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def take(self, count: int) -> bytes:
        if len(self._data) < count:
            raise ValueError("it is cut off")
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        return self.take(self.number())
