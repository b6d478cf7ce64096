"""Drafters that know everything, or nothing."""

import array
import random
from collections.abc import Sequence as Listed

from shimmy.worker.drafting.acceptance import RowCosts
from shimmy.worker.sequence import Sequence
from tests.worker.fake_context import next_token

Tokens = array.array  # of "i"


class FreeRows(RowCosts):
    """As on a machine where a row more costs nothing."""

    def least_chance(self, num_sequences: int, token_seconds: float) -> float:
        return 1e-9


class SteadyRows(RowCosts):
    """As if a step without drafts cost as much as three rows, whatever it takes here."""

    def observe(self, num_rows: int, seconds: float) -> None:
        pass


class WildDrafter:
    """Knows how each sequence goes on, and says so with the chance `truth` for each token; else anything."""

    token_seconds = 0.0

    def __init__(self, dice: random.Random, vocabulary_size: int, truth: float, *, is_free: bool = True) -> None:
        self.is_free = is_free
        self._dice = dice
        self._size = vocabulary_size
        self._truth = truth
        self.ended: list[Sequence] = []
        self.num_asked = 0

    def keep_up(self, sequences: Listed[Sequence], *, is_alone: bool) -> None:
        assert all(sequence.num_pending > 1 for sequence in sequences)

    def draft(self, wanted: Listed[tuple[Sequence, int]]) -> "list[Tokens[int]]":
        self.num_asked += 1
        return [self._guess(sequence, length) for sequence, length in wanted]

    def end(self, sequence: Sequence) -> None:
        self.ended.append(sequence)

    def _guess(self, sequence: Sequence, length: int) -> "Tokens[int]":
        assert sequence.num_pending == 1 and sequence.is_running
        tokens = sequence.tokens.tolist()
        for _ in range(length):
            is_true = self._dice.random() < self._truth
            tokens.append(next_token(tokens, self._size) if is_true else self._dice.randrange(self._size))
        return Tokens("i", tokens[len(sequence.tokens) :])
