"""tokenizer.json and tokenizer_config.json, as far as they matter here."""

from typing import Any

import msgspec

from shimmy.core.errors import ModelInvalid
from shimmy.models.checkpoint import Checkpoint, read_small

MAX_TOKENIZER_BYTES = 128 << 20
# As tokenizers limits nothing: what a step of several may be made of.
_MAX_STEPS = 16


class AddedToken(msgspec.Struct):
    """One that is found in a text before anything else is done to it."""

    content: str
    id: int = -1
    special: bool = False


class Model(msgspec.Struct):
    """Vocabularies are objects, or lists where each token has a score."""

    type: str | None = None
    vocab: dict[str, int] | list[Any] = {}
    merges: list[str | list[str]] = []
    byte_fallback: bool = False
    ignore_merges: bool = False
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None


class TokenizerJson(msgspec.Struct):
    model: Model
    added_tokens: list[AddedToken] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None


class TokenizerFiles(msgspec.Struct):
    """`model` and the three steps are None where tokenizer.json has none. `added` are by id; `config` is
    tokenizer_config.json, `model_config` config.json."""

    model: Model | None
    normalizer: dict[str, Any] | None
    pre_tokenizer: dict[str, Any] | None
    post_processor: dict[str, Any] | None
    added: dict[int, AddedToken]
    config: dict[str, Any]
    model_config: dict[str, Any]

    @property
    def splits_bytes(self) -> bool:
        return any(step.get("type") == "ByteLevel" for step in steps(self.pre_tokenizer, "pretokenizers"))

    def ids(self) -> dict[str, int]:
        """Of every token by its text; what is added comes first."""
        vocab = self.model.vocab if self.model is not None else {}
        known = dict(vocab) if isinstance(vocab, dict) else {}
        return known | {token.content: id for id, token in self.added.items()}


def read_tokenizer(checkpoint: Checkpoint) -> TokenizerFiles:
    """Raises `ModelInvalid`."""
    config = checkpoint.json("tokenizer_config.json")
    path = checkpoint.path("tokenizer.json")
    known = None if path is None else _decoded(path)
    added = _of_config(config) | {token.id: token for token in (known.added_tokens if known else [])}
    return TokenizerFiles(
        model=known.model if known else None,
        normalizer=known.normalizer if known else None,
        pre_tokenizer=known.pre_tokenizer if known else None,
        post_processor=known.post_processor if known else None,
        added=added,
        config=config,
        model_config=checkpoint.config.values,
    )


def steps(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """A step of the tokenizer as those it consists of; `name` is where a sequence has them. Raises `ModelInvalid`."""
    if step is None:
        return []
    parts = step.get(name) if step.get("type") == "Sequence" else [step]
    if not isinstance(parts, list) or len(parts) > _MAX_STEPS or not all(isinstance(part, dict) for part in parts):
        raise ModelInvalid(f"tokenizer.json: {name} is no list of at most {_MAX_STEPS} steps")
    return parts


def _decoded(path: str) -> TokenizerJson:
    try:
        return msgspec.json.decode(read_small(path, MAX_TOKENIZER_BYTES), type=TokenizerJson)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ModelInvalid(f"tokenizer.json cannot be read: {str(error)[:200]}") from error


def _of_config(config: dict[str, Any]) -> dict[int, AddedToken]:
    said = config.get("added_tokens_decoder")
    if said is None:
        return {}
    try:
        return msgspec.convert(said, dict[int, AddedToken], strict=False)
    except msgspec.ValidationError as error:
        raise ModelInvalid(f"tokenizer_config.json: {str(error)[:200]}") from error
