"""SentencePiece's BPE: from tokenizer.model, which has a score for each token or, without that file, from
tokenizer.json, where the order of the merges says the same."""

import re
import struct
from collections.abc import Iterator

from shimmy.convert.gguf import Value
from shimmy.convert.tokenizer.files import MAX_TOKENIZER_BYTES, Model, TokenizerFiles, steps
from shimmy.convert.tokenizer.vocabulary import BYTE, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import Checkpoint, read_small

# sentencepiece_model.proto: the fields that are read, and TrainerSpec.ModelType.BPE
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_TEXT, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _ADD_DUMMY_PREFIX = 3, 3
_BPE = 2

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
# Before every token that no merge makes.
_NO_MERGE_SCORE = -1e6


def sentencepiece_keys(
    checkpoint: Checkpoint, files: TokenizerFiles, num_tokens: int, adds_space: bool | None
) -> dict[str, Value]:
    vocabulary = Vocabulary(num_tokens)
    path = checkpoint.path("tokenizer.model")
    if path is not None:
        prefix = _read_pieces(read_small(path, MAX_TOKENIZER_BYTES), vocabulary)
    else:
        prefix = _read_merges(files, vocabulary)
    vocabulary.add(files.added)
    keys = vocabulary.keys("llama", "default") | vocabulary.scores_key()
    said = files.config.get("add_prefix_space")
    prefix = adds_space if adds_space is not None else said if isinstance(said, bool) else prefix
    return keys | {"tokenizer.ggml.add_space_prefix": prefix}


def _read_pieces(data: bytes, vocabulary: Vocabulary) -> bool:
    """Puts the pieces into `vocabulary`; returns whether texts begin with a space that is not there."""
    id, model_type, prefix = 0, 1, True
    for number, value in _fields(data):
        if number == _PIECES and isinstance(value, bytes):
            if id < len(vocabulary.tokens):
                vocabulary.put(id, *_piece(value))
            id += 1
        elif number == _TRAINER and isinstance(value, bytes):
            model_type = next((int(each) for key, each in _fields(value) if key == _MODEL_TYPE), 1)
        elif number == _NORMALIZER and isinstance(value, bytes):
            prefix = next((bool(each) for key, each in _fields(value) if key == _ADD_DUMMY_PREFIX), True)
    if model_type != _BPE:
        raise ModelInvalid("its tokenizer.model is no BPE: llama.cpp would cut texts differently")
    return prefix


def _piece(data: bytes) -> tuple[str, int, float]:
    text, kind, score = "", NORMAL, 0.0
    for number, value in _fields(data):
        if number == _TEXT and isinstance(value, bytes):
            text = value.decode("utf-8", "replace")
        elif number == _SCORE and isinstance(value, float):
            score = value
        elif number == _TYPE and isinstance(value, int):
            kind = value
    # What users define are tokens like others, unless tokenizer_config.json says more of them.
    return text, NORMAL if kind == USER_DEFINED else kind, score


def _fields(data: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """The fields of a message in protobuf's wire format. Raises `ModelInvalid`."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, -1)
        if kind == _BYTES:
            length, at = _varint(data, at)
        if length < 0 or at + length > len(data):
            raise ModelInvalid("tokenizer.model is damaged, or none of SentencePiece")
        part = data[at : at + length]
        at += length
        yield tag >> 3, struct.unpack("<f", part)[0] if kind == _FIXED32 else part


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """(value, where it ends)"""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ModelInvalid("tokenizer.model is damaged, or none of SentencePiece")


def _read_merges(files: TokenizerFiles, vocabulary: Vocabulary) -> bool:
    """The earlier a token is merged, the higher its score."""
    model = files.model
    if model is None or model.type != "BPE" or not isinstance(model.vocab, dict):
        raise ModelInvalid("its tokenizer.json is no BPE")
    ranks = _ranks(model)
    for text, id in model.vocab.items():
        if _BYTE_TOKEN.fullmatch(text):
            vocabulary.put(id, text, BYTE)
        elif text == model.unk_token:
            vocabulary.put(id, text, UNKNOWN)
        else:
            vocabulary.put(id, text, NORMAL, -float(ranks[text]) if text in ranks else _NO_MERGE_SCORE)
    return _begins_with_space(files)


def _ranks(model: Model) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for merge in model.merges:
        halves = merge.split(" ") if isinstance(merge, str) else merge
        if len(halves) != 2:
            raise ModelInvalid(f"tokenizer.json: a merge is {merge!r:.80}, not a pair")
        ranks.setdefault(halves[0] + halves[1], len(ranks))
    return ranks


def _begins_with_space(files: TokenizerFiles) -> bool:
    """Spaces have to be written as SentencePiece does, and nothing else be changed."""
    begins = False
    for step in steps(files.normalizer, "normalizers"):
        match step:
            case {"type": "Prepend", "prepend": "\u2581"}:
                begins = True
            case {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}:
                pass
            case _:
                raise ModelInvalid(
                    f"its tokenizer changes texts in a way that llama.cpp has not: {step.get('type')!s:.40}"
                )
    for step in steps(files.pre_tokenizer, "pretokenizers"):
        match step:
            case {"type": "Metaspace", "replacement": "\u2581"}:
                begins = step.get("prepend_scheme", "always") != "never" and step.get("add_prefix_space") is not False
            case {"type": "Split", "pattern": {"String": " " | "\u2581"}}:
                pass
            case _:
                raise ModelInvalid(
                    f"its tokenizer cuts texts in a way that llama.cpp has not: {step.get('type')!s:.40}"
                )
    return begins
