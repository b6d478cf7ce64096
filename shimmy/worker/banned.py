"""Tokens that one request must not get, and when. Knows tokens and counts, nothing of logits."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol

import msgspec

from shimmy.core.request import Generation


class Vocabulary(Protocol):
    """What is asked of a model (worker/llama/model.py is the real one)."""

    @property
    def end_tokens(self) -> frozenset[int]: ...
    @property
    def suppressed_tokens(self) -> frozenset[int]: ...
    def tokenize(self, text: str, *, add_special: bool) -> list[int]: ...


class Banned(msgspec.Struct, frozen=True):
    """`always` is out at any time, `early` until `min_tokens` have been generated, and of each sequence in `after` the
    last token, when the others stand before it."""

    always: frozenset[int] = frozenset()
    early: frozenset[int] = frozenset()
    min_tokens: int = 0
    after: tuple[tuple[int, ...], ...] = ()


def banned_by(generation: Generation, vocabulary: Vocabulary) -> Banned:
    """What a request rules out, and the model's file for all."""
    sampling = generation.sampling
    spellings = set(_spellings(sampling.bad_words, vocabulary))
    always = {spelling[0] for spelling in spellings if len(spelling) == 1} | vocabulary.suppressed_tokens
    if sampling.ignore_eos:
        always |= vocabulary.end_tokens
    early = vocabulary.end_tokens | set(generation.stop_tokens) if sampling.min_tokens else frozenset()
    after = tuple(sorted(spelling for spelling in spellings if len(spelling) > 1))
    return Banned(frozenset(always), frozenset(early), sampling.min_tokens, after)


def _spellings(words: Iterable[str], vocabulary: Vocabulary) -> Iterable[tuple[int, ...]]:
    """Each word as tokens, at the beginning of a text and after a space: most vocabularies have two tokens for that."""
    for word in words:
        for text in (word.lstrip(), " " + word.lstrip()):
            if text.strip() and (tokens := vocabulary.tokenize(text, add_special=False)):
                yield tuple(tokens)


class Ban:
    """What is banned at the place of one sequence's next token, besides what always is."""

    def __init__(self, banned: Banned) -> None:
        self._early = banned.early
        self._min_tokens = banned.min_tokens
        self._generated: list[int] = []
        self._num_generated = 0
        self._by_last: defaultdict[int, list[tuple[list[int], int]]] = defaultdict(list)
        for *before, token in banned.after:
            self._by_last[before[-1]].append((before, token))
        self._memory = max((len(sequence) - 1 for sequence in banned.after), default=0)

    def tokens(self) -> list[int]:
        banned = list(self._early) if self._num_generated < self._min_tokens else []
        if self._generated:
            for before, token in self._by_last.get(self._generated[-1], ()):
                if self._generated[-len(before) :] == before:
                    banned.append(token)
        return banned

    def observe(self, token: int) -> None:
        """`token` was generated."""
        self._num_generated += 1
        if self._memory:
            self._generated = [*self._generated, token][-self._memory :]


def must_be_watched(banned: Banned) -> bool:
    """Whether what is banned changes from token to token."""
    return bool(banned.early or banned.after)
