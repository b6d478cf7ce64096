"""The tokenizer's part of a header. llama.cpp indexes these arrays by token id, so their types and lengths have to
agree before it sees them (llama-vocab.cpp, llama_vocab::impl::load)."""

import re
import sys
from array import array
from collections.abc import Iterator
from typing import BinaryIO

from shimmy.core.errors import ModelInvalid
from shimmy.models.gguf.cursor import Cursor
from shimmy.models.gguf.metadata import Array, Metadata
from shimmy.models.gguf.strings import skip_strings

_TOKENS = "tokenizer.ggml.tokens"
_TOKEN_TYPES = "tokenizer.ggml.token_type"
_ELEMENTS = {
    _TOKENS: ("str",),
    "tokenizer.ggml.merges": ("str",),
    "tokenizer.ggml.scores": ("f32", "i32"),
    _TOKEN_TYPES: ("i32",),
    "tokenizer.ggml.precompiled_charsmap": ("u8", "i8"),
}
_PER_TOKEN = ("tokenizer.ggml.scores", _TOKEN_TYPES)
_IDS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")
_NO_TOKEN = (-1, 2**32 - 1)

_BYTE_TYPE = 6
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_MAX_BYTE_TOKENS = 256
_MAX_TOKEN_BYTES = 1 << 16


def num_tokens(metadata: Metadata) -> int | None:
    """The size of the vocabulary, or None in a file without one."""
    tokens = metadata.get(_TOKENS)
    return tokens.length if isinstance(tokens, Array) else None


def check_vocabulary(metadata: Metadata, file: BinaryIO, file_bytes: int) -> None:
    """Raises `ModelInvalid` when the arrays do not fit together; a file without a vocabulary passes."""
    for key, allowed in _ELEMENTS.items():
        value = metadata.get(key)
        if value is not None and not (isinstance(value, Array) and value.element in allowed):
            raise ModelInvalid(f"{key} is not an array of {' or '.join(allowed)}")
    tokens, types = metadata.get(_TOKENS), metadata.get(_TOKEN_TYPES)
    if isinstance(tokens, Array):
        _check_lengths(metadata, tokens.length)
        _check_ids(metadata, tokens.length)
        if isinstance(types, Array):
            _check_byte_tokens(file, file_bytes, tokens, types)


def _check_lengths(metadata: Metadata, vocabulary_size: int) -> None:
    for key in _PER_TOKEN:
        value = metadata.get(key)
        if isinstance(value, Array) and value.length != vocabulary_size:
            raise ModelInvalid(f"{key} has {value.length} elements for {vocabulary_size} tokens")


def _check_ids(metadata: Metadata, vocabulary_size: int) -> None:
    for key in _IDS:
        token = metadata.get(key)
        if token is None or token in _NO_TOKEN:
            continue
        if not isinstance(token, int) or not 0 <= token < vocabulary_size:
            raise ModelInvalid(f"{key} is {token!r}, the vocabulary has {vocabulary_size} tokens")


def _check_byte_tokens(file: BinaryIO, file_bytes: int, tokens: Array, types: Array) -> None:
    """A token of type BYTE names its byte, <0x0A>; llama.cpp parses the digits unchecked."""
    type_codes = array("i", Cursor(file, file_bytes, types.offset).take(4 * types.length))
    cursor = Cursor(file, file_bytes, tokens.offset)
    following = 0
    for index in _byte_tokens(type_codes):
        skip_strings(cursor, index - following, _MAX_TOKEN_BYTES)
        following = index + 1
        token = cursor.text("a byte token", _MAX_TOKEN_BYTES)
        if not _BYTE_TOKEN.fullmatch(token):
            raise ModelInvalid(f"token {index} is of type BYTE but reads {token[:80]!r}")


def _byte_tokens(type_codes: "array[int]") -> Iterator[int]:
    if sys.byteorder == "big":
        type_codes.byteswap()
    count = type_codes.count(_BYTE_TYPE)
    if count > _MAX_BYTE_TOKENS:
        raise ModelInvalid(f"{count} tokens are of type BYTE")
    index = -1
    for _ in range(count):
        index = type_codes.index(_BYTE_TYPE, index + 1)
        yield index
