"""A checkpoint's tokenizer as the keys tokenizer.* of a GGUF header. Raises `ModelInvalid` for one that llama.cpp has
no equal of: it would read texts in another way, and nobody would notice."""

from shimmy.convert.gguf import Value
from shimmy.convert.tokenizer.byte_level import byte_level_keys
from shimmy.convert.tokenizer.files import TokenizerFiles, read_tokenizer
from shimmy.convert.tokenizer.sentencepiece import sentencepiece_keys
from shimmy.convert.tokenizer.special import special_keys
from shimmy.convert.tokenizer.word_pieces import word_piece_keys
from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import Checkpoint


def tokenizer_keys(checkpoint: Checkpoint, num_tokens: int, adds_space: bool | None) -> dict[str, Value]:
    """`num_tokens` is how many embeddings there are; `adds_space` whether texts begin with a space that is not there,
    if that is known."""
    files = read_tokenizer(checkpoint)
    keys = _vocabulary(checkpoint, files, num_tokens, adds_space)
    return keys | special_keys(files, num_tokens) | _template_keys(checkpoint)


def _vocabulary(
    checkpoint: Checkpoint, files: TokenizerFiles, num_tokens: int, adds_space: bool | None
) -> dict[str, Value]:
    model = files.model
    if checkpoint.architecture == "bert":
        if model is None or model.type != "WordPiece":
            raise ModelInvalid(f"its tokenizer is {_kind(files)}: of BERT, only those with WordPiece can be converted")
        types = checkpoint.config.size("type_vocab_size", 1)
        return word_piece_keys(files, num_tokens) | {"tokenizer.ggml.token_type_count": types}
    if model is not None and model.type == "BPE" and not model.byte_fallback and files.splits_bytes:
        return byte_level_keys(files, num_tokens)
    if checkpoint.path("tokenizer.model") is not None or (model is not None and model.byte_fallback):
        return sentencepiece_keys(checkpoint, files, num_tokens, adds_space)
    raise ModelInvalid(f"its tokenizer is {_kind(files)}, which cannot be converted: BPE and SentencePiece can")


def _template_keys(checkpoint: Checkpoint) -> dict[str, Value]:
    """The one called "default" has no name in its key; others are named after what they are for."""
    templates = checkpoint.templates()
    keys: dict[str, Value] = {}
    for name, template in templates.items():
        keys["tokenizer.chat_template" if name == "default" else f"tokenizer.chat_template.{name}"] = template
    others = [name for name in templates if name != "default"]
    return keys | ({"tokenizer.chat_templates": others} if others else {})


def _kind(files: TokenizerFiles) -> str:
    return "not in tokenizer.json" if files.model is None else f"of the kind {files.model.type or 'not stated'!s:.40}"
