"""Which sequences get drafts in a step, and how long. Owns what is known of each sequence's; knows no batch or cells.

A draft is computed in the same batch as the token before it, a row for each token. Then the sampler draws row by row,
and goes on for as long as it draws what was guessed: so nobody gets another token than without drafts, and the same
number of draws. What pays depends on the machine: a row more costs next to nothing where a step only waits for memory,
and nearly as much as a step on a CPU that computes a small model (acceptance.py).
"""

import array
from collections.abc import Mapping
from collections.abc import Sequence as Listed
from typing import Protocol

from shimmy.core.request import SpeculativeType
from shimmy.worker.drafting.acceptance import Acceptance, RowCosts
from shimmy.worker.llama.context import Batch
from shimmy.worker.prefix_tree import common_length
from shimmy.worker.sequence import NOTHING, Sequence

Tokens = array.array  # of "i"

# Longer drafts save little more, and a wrong guess early in them costs all the rest.
MAX_DRAFT_TOKENS = 16
# Of all sequences together in one step. Each row has logits, 1 MB with a large vocabulary, and prompts need rows too.
MAX_STEP_TOKENS = 64
# Where guesses that are not free did not pay, so many are tried again after so many tokens.
_TRIAL_TOKENS = 2
RETRY_TOKENS = 128


class Memory(Protocol):
    """What this needs of a context."""

    context_length: int
    batch: Batch


class Drafter(Protocol):
    """Guesses how sequences go on. Where that `is_free`, it may be asked only to see whether it would have been right;
    else a token takes it `token_seconds`."""

    is_free: bool

    @property
    def token_seconds(self) -> float: ...
    def keep_up(self, sequences: Listed[Sequence], *, is_alone: bool) -> None:
        """These have prompts that are being computed; `is_alone` while nobody decodes."""

    def draft(self, wanted: Listed[tuple[Sequence, int]]) -> "list[Tokens[int]]":
        """For each of these, which decode, at most so many tokens."""

    def end(self, sequence: Sequence) -> None:
        """It will not run again."""


class _Drafts:
    """One sequence's: who makes them, at most how long, and what came of them."""

    def __init__(self, drafter: Drafter, limit: int) -> None:
        self.drafter = drafter
        self.limit = limit
        self.acceptance = Acceptance()
        self.retry_at = 0
        # What was guessed for this step, perhaps more than is computed, and after how many tokens.
        self.guess: Tokens[int] = NOTHING
        self.guessed_at = 0


class Drafting:
    """Owns the drafts of all sequences: `draft`, compute, sample, then `settle` each."""

    def __init__(
        self,
        drafters: Mapping[str, Drafter] | None = None,
        default: SpeculativeType = "none",
        costs: RowCosts | None = None,
    ) -> None:
        """The drafters there are, by type, and which one is used for requests that name none."""
        self._drafters = drafters or {}
        self._default = default
        self._drafts: dict[Sequence, _Drafts] = {}
        self._costs = costs or RowCosts()

    def begin(self, sequence: Sequence) -> None:
        """The sequence runs for the first time."""
        asked = sequence.request.generation.speculative
        type = asked.type or ("ngram" if sequence.request.prediction else self._default)
        limit = MAX_DRAFT_TOKENS if asked.n_max is None else asked.n_max
        if limit and (drafter := self._drafters.get(type)):
            self._drafts[sequence] = _Drafts(drafter, limit)

    def end(self, sequence: Sequence) -> None:
        """The sequence will not run again."""
        if drafts := self._drafts.pop(sequence, None):
            drafts.drafter.end(sequence)

    def draft(self, decoding: Listed[Sequence], prefilling: Listed[Sequence], memory: Memory) -> None:
        """Gives those that decode their `draft` for this step."""
        room = min(MAX_STEP_TOKENS, (memory.batch.capacity - len(decoding)) // 2)
        for drafter in self._drafters.values() if self._drafts else ():
            if behind := self._of(drafter, prefilling):
                drafter.keep_up(behind, is_alone=not decoding)
            wanted, lengths = [], []
            for sequence in self._of(drafter, decoding):
                most = min(room // len(decoding), _num_left(sequence, memory.context_length) - 1)
                lengths.append(self._length(sequence, most, len(decoding)))
                wanted.append((sequence, max(lengths[-1], int(drafter.is_free))))
            if any(length for _, length in wanted):
                for (sequence, _), length, guess in zip(wanted, lengths, drafter.draft(wanted), strict=True):
                    self._drafts[sequence].guess, self._drafts[sequence].guessed_at = guess, len(sequence.tokens)
                    sequence.draft = guess[:length]

    def settle(self, sequence: Sequence) -> None:
        """The sequence got its next tokens."""
        sequence.draft = NOTHING
        drafts = self._drafts.get(sequence)
        if drafts and drafts.guess:
            num_new = len(sequence.tokens) - drafts.guessed_at
            num_right = common_length(sequence.tokens, drafts.guessed_at, drafts.guess, 0, num_new)
            drafts.acceptance.observe(num_right, then_wrong=num_right < min(num_new, len(drafts.guess)))
            drafts.guess = NOTHING

    def observe(self, num_rows: int, seconds: float) -> None:
        """What a step without prompts took."""
        self._costs.observe(num_rows, seconds)

    def share(self, num_rows: int, num_drafted: int) -> float:
        """How much of the time of a step with so many rows it would have taken without those that were drafted."""
        return self._costs.seconds(num_rows - num_drafted) / self._costs.seconds(num_rows)

    def _of(self, drafter: Drafter, sequences: Listed[Sequence]) -> list[Sequence]:
        return [each for each in sequences if each in self._drafts and self._drafts[each].drafter is drafter]

    def _length(self, sequence: Sequence, most: int, num_decoding: int) -> int:
        drafts = self._drafts[sequence]
        least = self._costs.least_chance(num_decoding, drafts.drafter.token_seconds)
        length = drafts.acceptance.length(least)
        if not length and not drafts.drafter.is_free and len(sequence.tokens) >= drafts.retry_at:
            drafts.retry_at = len(sequence.tokens) + RETRY_TOKENS
            length = _TRIAL_TOKENS
        return max(0, min(length, drafts.limit, most))


def _num_left(sequence: Sequence, context_length: int) -> int:
    """How many tokens the sequence may still get."""
    left, limit = context_length - len(sequence.tokens), sequence.request.generation.max_tokens
    return left if limit is None else min(left, limit - sequence.num_generated)
