"""A model's tokens as llguidance wants them. Made once for a model, by the first request with a constraint."""

from collections.abc import Sequence
from typing import Any, Protocol

from shimmy.worker.constraints.libllguidance import llguidance


class Model(Protocol):
    """What is asked of a model (worker/llama/model.py is the real one)."""

    @property
    def end_tokens(self) -> frozenset[int]: ...
    def pieces(self) -> list[bytes]: ...


class _Tokens:
    """The attributes that llguidance reads. It takes its own wrapper for them by this name and no other sign, and asks
    it to tokenize nothing but what a grammar forces, which is not used here."""

    def __init__(self, tokens: Sequence[bytes], special: list[int], end: int) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end
        self.bos_token_id = None
        self.is_tokenizer_wrapper = True

    def __call__(self, text: str) -> list[int]:
        return []


def tokenizer(model: Model) -> Any:
    """An LLTokenizer. It holds the interpreter lock while it is made: 0.1 s for 49,000 tokens, 0.3 s for 150,000."""
    pieces = model.pieces()
    ends = sorted(model.end_tokens)
    if not ends:
        # llguidance must have one. Beyond the vocabulary it never comes; the generation ends when nothing may follow.
        ends = [len(pieces)]
        pieces.append(b"")
    special = sorted({*ends, *(token for token, piece in enumerate(pieces) if not piece)})
    for token in special:
        # What begins with 0xFF is no text to llguidance, and never allowed where a grammar asks for text.
        pieces[token] = b"\xff<%d>" % token
    return llguidance().LLTokenizer(_Tokens(pieces, special, ends[0]), eos_token=ends)
