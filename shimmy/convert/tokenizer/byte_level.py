"""BPE over bytes, as GPT-2 introduced it. llama.cpp cuts a text into words by one of several rules that it knows by
name; tokenizer.json spells its rule out, so that the name can be found."""

from typing import Any

from shimmy.convert.gguf import Value
from shimmy.convert.tokenizer.files import Model, TokenizerFiles, steps
from shimmy.convert.tokenizer.vocabulary import NORMAL, Vocabulary
from shimmy.core.errors import ModelInvalid

_CONTRACTED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_LINES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_END = r" ?[^\s\p{L}\p{N}]+[\r\n]*|" + _LINES
_END_WITH_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _LINES

_TRIPLES = _CONTRACTED + "|" + _BEFORE + r"\p{L}+|\p{N}{1,3}|" + _END
_DIGITS = _CONTRACTED + "|" + _BEFORE + r"\p{L}+|\p{N}|" + _END
_CASED = f"{_BEFORE}{_UPPER}*{_LOWER}+|{_BEFORE}{_UPPER}+{_LOWER}*|\\p{{N}}|{_END_WITH_SLASHES}"
_CASED_TRIPLES = (
    f"{_BEFORE}{_UPPER}*{_LOWER}+{_CONTRACTED}?|{_BEFORE}{_UPPER}+{_LOWER}*{_CONTRACTED}?"
    f"|\\p{{N}}{{1,3}}|{_END_WITH_SLASHES}"
)

Step = tuple[str, str]
_BYTES: Step = ("bytes", "")
_BYTES_OF_WORDS: Step = ("bytes", "of words")
_EACH_DIGIT: Step = ("digits", "")
# The steps, whether a word that is a token stays whole (None: either way), and what llama.cpp calls that.
RULES: list[tuple[list[Step], bool | None, str]] = [
    ([("split", _TRIPLES), _BYTES], True, "llama-bpe"),
    ([("split", _TRIPLES), _BYTES], False, "dbrx"),
    ([("split", _DIGITS), _BYTES], False, "qwen2"),
    ([("split", _CASED), _BYTES], None, "tekken"),
    ([("split", _CASED_TRIPLES), _BYTES], False, "gpt-4o"),
    ([_EACH_DIGIT, _BYTES_OF_WORDS], False, "smollm"),
    ([_BYTES_OF_WORDS], False, "gpt-2"),
]
_SPACE_WITHIN = "\u0120"


def byte_level_keys(files: TokenizerFiles, num_tokens: int) -> dict[str, Value]:
    model = files.model
    if model is None or not isinstance(model.vocab, dict):
        raise ModelInvalid("tokenizer.json: the vocabulary of a BPE is an object")
    rule = pre_tokenizer_name(files, model)
    vocabulary = Vocabulary(num_tokens)
    for text, id in model.vocab.items():
        vocabulary.put(id, text, NORMAL)
    vocabulary.add(files.added)
    return vocabulary.keys("gpt2", rule) | {"tokenizer.ggml.merges": [_merge(merge) for merge in model.merges]}


def pre_tokenizer_name(files: TokenizerFiles, model: Model) -> str:
    """What llama.cpp calls the way in which texts are cut into words. Raises `ModelInvalid` where it has none."""
    for step in steps(files.normalizer, "normalizers"):
        if step.get("type") != "NFC":
            raise ModelInvalid(f"its tokenizer changes texts in a way that llama.cpp has not: {step.get('type')!s:.40}")
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        raise ModelInvalid(
            "its tokenizer marks where words go on or end, which llama.cpp does not for a BPE over bytes"
        )
    found = [_step(step) for step in steps(files.pre_tokenizer, "pretokenizers")]
    for rule, ignores_merges, name in RULES:
        if found == rule and ignores_merges in (None, model.ignore_merges):
            return name
    described = " and ".join(" ".join(step).strip() for step in found)
    raise ModelInvalid(
        f"its tokenizer cuts texts into words by a rule that llama.cpp has no name for: {described!s:.300}"
    )


def _step(step: dict[str, Any]) -> Step:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False}:
            return _BYTES if step.get("use_regex") is False else _BYTES_OF_WORDS
        case {"type": "Digits", "individual_digits": True}:
            return _EACH_DIGIT
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"} if not step.get("invert"):
            return "split", pattern
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Removed", "invert": True}:
            return "split", pattern
    return "other", str(step.get("type"))


def _merge(merge: str | list[str]) -> str:
    """Both halves with a space between, so that one within them is written as the vocabulary writes it."""
    if isinstance(merge, str):
        return merge
    if len(merge) != 2:
        raise ModelInvalid(f"tokenizer.json: a merge is {merge!r:.80}, not a pair")
    return " ".join(half.replace(" ", _SPACE_WITHIN) for half in merge)
