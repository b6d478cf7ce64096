"""A vocabulary as it is put together: for each token its text, what kind it is and, where it matters, its score."""

from array import array

from shimmy.convert.gguf import Value
from shimmy.convert.tokenizer.files import AddedToken
from shimmy.core.errors import ModelInvalid

# llama.h, enum llama_token_type
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
SPACE = "\u2581"
ADDED_SCORE = -1000.0
_UNUSED_SCORE = -10_000.0
# Added tokens that are not said to be special, and are: those of a dialogue, of Gemma and of DeepSeek.
_LOOK_SPECIAL = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_MARKS = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))


class Vocabulary:
    """At first, nothing but tokens that are not used."""

    def __init__(self, num_tokens: int) -> None:
        self.tokens = [f"[PAD{id}]" for id in range(num_tokens)]
        self.types = [UNUSED] * num_tokens
        self.scores = [_UNUSED_SCORE] * num_tokens

    def put(self, id: int, text: str, kind: int, score: float = 0.0) -> None:
        """Raises `ModelInvalid` for a token that has no embedding."""
        if not 0 <= id < len(self.tokens):
            raise ModelInvalid(f"its tokenizer has a token {id}, its embeddings are those of {len(self.tokens)}")
        self.tokens[id], self.types[id], self.scores[id] = text, kind, score

    def add(self, added: dict[int, AddedToken]) -> None:
        """Those without an embedding are left out: they stand for images and the like."""
        for id, token in added.items():
            if not 0 <= id < len(self.tokens):
                continue
            if token.special or looks_special(token.content):
                self.put(id, token.content, CONTROL, ADDED_SCORE)
            else:
                self.put(id, token.content.replace(SPACE, " "), USER_DEFINED, ADDED_SCORE)

    def keys(self, model: str, pre: str) -> dict[str, Value]:
        return {
            "tokenizer.ggml.model": model,
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": self.tokens,
            "tokenizer.ggml.token_type": self.types,
        }

    def scores_key(self) -> dict[str, Value]:
        return {"tokenizer.ggml.scores": array("f", self.scores)}


def looks_special(text: str) -> bool:
    return text in _LOOK_SPECIAL or any(text.startswith(begin) and text.endswith(end) for begin, end in _MARKS)
