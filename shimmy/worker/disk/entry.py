"""The format of one file: a state, and the tokens that it is the state after. It knows no folder and no names.

    header   magic, form, number of tokens, bytes of state, the scope's id, salt
    body     the token ids (32 bits each), the state
    check    BLAKE2b of all that; or, sealed, a Poly1305 tag behind each chunk of the body

The state is stored as it is: zlib at its fastest takes 8 % off keys and values in f16, at 24 MB/s.
"""

import os
import struct
from collections.abc import Generator, Iterator
from hashlib import blake2b
from typing import Protocol

from shimmy.worker.disk.scope import Scope
from shimmy.worker.disk.sealing import SALT_BYTES, TAG_BYTES, Sealer, Unopened
from shimmy.worker.prefix_tree import Tokens

_HEADER = struct.Struct(f"<8sIIQ32s{SALT_BYTES}s")
_MAGIC = b"shimmykv"
_PLAIN, _SEALED = 1, 2
_NO_SALT = bytes(SALT_BYTES)
_CHECK_BYTES = 32
# Small enough for the interpreter lock, which PyNaCl holds while it copies a chunk.
_CHUNK_BYTES = 1 << 18


class Damaged(Exception):
    """The file is not the entry that its name promises."""


class Reader(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


def size_of(scope: Scope, num_tokens: int, state_bytes: int) -> int:
    """Bytes of a whole file."""
    body = num_tokens * 4 + state_bytes
    check = (1 + _num_chunks(state_bytes)) * TAG_BYTES if scope.seal_key else _CHECK_BYTES
    return _HEADER.size + body + check


def write(scope: Scope, tokens: "Tokens[int]", state: bytes) -> Iterator[bytes | memoryview]:
    """The file, piece by piece. Neither tokens nor state are empty; the state is not copied as a whole."""
    salt = os.urandom(SALT_BYTES) if scope.seal_key else _NO_SALT
    form = _SEALED if scope.seal_key else _PLAIN
    header = _HEADER.pack(_MAGIC, form, len(tokens), len(state), scope.id, salt)
    yield header
    if scope.seal_key:
        sealer = Sealer(scope.seal_key, salt, header)
        yield sealer.seal(tokens.tobytes(), last=False)
        for chunk, last in _chunks(state):
            yield sealer.seal(bytes(chunk), last=last)
    else:
        check = blake2b(header, digest_size=_CHECK_BYTES)
        check.update(tokens)
        yield tokens.tobytes()
        for chunk, _ in _chunks(state):
            check.update(chunk)
            yield chunk
        yield check.digest()


def read(file: Reader, file_bytes: int, scope: Scope, tokens: "Tokens[int]") -> Generator[None, None, bytes]:
    """Returns the state after exactly `tokens`, once everything has been checked. Yields after each quarter of a MiB.
    Raises `Damaged`."""
    content = _Content(file, file_bytes, scope)
    if content.tokens != tokens:
        raise Damaged("the tokens are others")
    return (yield from content.state())


def read_tokens(file: Reader, file_bytes: int, scope: Scope) -> "Tokens[int]":
    """The tokens that the file is about, if it is whole: only `read` looks at all of it. Raises `Damaged`."""
    return _Content(file, file_bytes, scope).tokens


class _Content:
    """A file whose header fits, read up to its tokens."""

    def __init__(self, file: Reader, file_bytes: int, scope: Scope) -> None:
        header = _exactly(file, _HEADER.size)
        magic, form, num_tokens, state_bytes, scope_id, salt = _HEADER.unpack(header)
        if (magic, form, scope_id) != (_MAGIC, _SEALED if scope.seal_key else _PLAIN, scope.id):
            raise Damaged("the header is that of something else")
        if not num_tokens or not state_bytes or file_bytes != size_of(scope, num_tokens, state_bytes):
            raise Damaged("the size is not what the header says")
        self._file = file
        self._state_bytes = state_bytes
        self._check = blake2b(header, digest_size=_CHECK_BYTES)
        self._sealer = Sealer(scope.seal_key, salt, header) if scope.seal_key else None
        self.tokens = Tokens("i")
        self.tokens.frombytes(self._chunk(num_tokens * 4, last=False))

    def state(self) -> Generator[None, None, bytes]:
        """To be called once. Raises `Damaged`."""
        chunks, missing = [], self._state_bytes
        while missing:
            chunks.append(self._chunk(min(missing, _CHUNK_BYTES), last=missing <= _CHUNK_BYTES))
            missing -= len(chunks[-1])
            yield
        if self._sealer is None and _exactly(self._file, _CHECK_BYTES) != self._check.digest():
            raise Damaged("the checksum differs")
        return b"".join(chunks)

    def _chunk(self, size: int, *, last: bool) -> bytes:
        if self._sealer is None:
            chunk = _exactly(self._file, size)
            self._check.update(chunk)
            return chunk
        try:
            return self._sealer.open(_exactly(self._file, size + TAG_BYTES), last=last)
        except Unopened as error:
            raise Damaged("a chunk does not open") from error


def _num_chunks(state_bytes: int) -> int:
    return -(-state_bytes // _CHUNK_BYTES)


def _chunks(state: bytes) -> Iterator[tuple[memoryview, bool]]:
    """Slices of the state, each with whether it is the last."""
    view = memoryview(state)
    for start in range(0, len(state), _CHUNK_BYTES):
        yield view[start : start + _CHUNK_BYTES], start + _CHUNK_BYTES >= len(state)


def _exactly(file: Reader, size: int) -> bytes:
    """Raises `Damaged` at the end of the file; one read gives at most 2 GiB."""
    data = file.read(size) or b""
    if len(data) == size:
        return data
    pieces, missing = [data], size - len(data)
    while missing:
        piece = file.read(missing)
        if not piece:
            raise Damaged("the file ends too early")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
