"""WordPiece, BERT's. llama.cpp writes a token that begins a word with the space before it, and one that goes on with
nothing."""

from shimmy.convert.gguf import Value
from shimmy.convert.tokenizer.files import TokenizerFiles, steps
from shimmy.convert.tokenizer.vocabulary import CONTROL, NORMAL, SPACE, Vocabulary
from shimmy.core.errors import ModelInvalid

_GOES_ON = "##"
# The vocabulary says all that there is to say; the name is that of the first one that was like this.
_PRE = "jina-v2-en"


def word_piece_keys(files: TokenizerFiles, num_tokens: int) -> dict[str, Value]:
    model = files.model
    if model is None or not isinstance(model.vocab, dict):
        raise ModelInvalid("tokenizer.json: the vocabulary of a WordPiece is an object")
    if (model.continuing_subword_prefix or _GOES_ON) != _GOES_ON:
        raise ModelInvalid(f"its tokenizer writes {model.continuing_subword_prefix!r:.20} where words go on, not '##'")
    vocabulary = Vocabulary(num_tokens)
    for text, id in model.vocab.items():
        vocabulary.put(id, text, NORMAL)
    vocabulary.add(files.added)
    vocabulary.tokens = [
        token if kind == CONTROL else _spelled(token)
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    return vocabulary.keys("bert", _PRE) | _normalizer_keys(files)


def _spelled(token: str) -> str:
    return token[len(_GOES_ON) :] if token.startswith(_GOES_ON) else f"{SPACE}{token}"


def _normalizer_keys(files: TokenizerFiles) -> dict[str, Value]:
    """Whether case and accents matter; llama.cpp does the rest of what BERT does in any case."""
    keys: dict[str, Value] = {}
    for step in steps(files.normalizer, "normalizers"):
        match step.get("type"):
            case "BertNormalizer":
                for name in ("lowercase", "strip_accents"):
                    if isinstance(step.get(name), bool):
                        keys[f"tokenizer.ggml.normalizer.{name}"] = step[name]
            case "Lowercase":
                keys["tokenizer.ggml.normalizer.lowercase"] = True
            case "StripAccents":
                keys["tokenizer.ggml.normalizer.strip_accents"] = True
    return keys
