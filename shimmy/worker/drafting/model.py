"""A second, smaller model that guesses what the first one will say. Owns its context, and what that has of whom.

Sequences have the same ids in both contexts. What the draft model has computed of one is kept when it ends, for those
after it that begin alike. Should its cache be full, sequences go on without drafts; nobody waits for a guess.
"""

import array
import time
from collections.abc import Callable
from collections.abc import Sequence as Listed
from typing import Protocol

from shimmy.core.errors import ModelInvalid
from shimmy.worker.llama.context import Batch, DecodeFailed, KVCacheFull
from shimmy.worker.prefix_states import Reuse
from shimmy.worker.prefix_tree import common_length
from shimmy.worker.sequence import Sequence

Tokens = array.array  # of "i"

# Less likely tokens, by the draft model's own account, are not guessed.
LEAST_PROBABILITY = 0.5
# What the others have of the probability says little; llama-server's drafts look at as many.
NUM_COMPARED = 10
# While others decode, so many tokens of prompts are computed in a step.
CHUNK_TOKENS = 64
# Vocabularies of one family may differ in padding at their ends (llama.cpp, SPEC_VOCAB_MAX_SIZE_DIFFERENCE).
_MAX_SIZE_DIFFERENCE = 128
_NUM_COMPARED_TOKENS = 1000
_COST_MEMORY = 0.9


class Context(Protocol):
    """What this needs of a context (worker/llama/context.py is the real one)."""

    context_length: int
    batch: Batch

    @property
    def handle(self) -> int: ...
    def decode(self) -> None: ...
    def clear(self) -> None: ...
    def forget(self, sequence: int, start: int = 0, end: int = -1) -> None: ...
    def copy(self, source: int, target: int, end: int, start: int = 0) -> None: ...
    def first_position(self, sequence: int) -> int: ...
    def set_num_threads(self, count: int) -> None: ...


class Model(Protocol):
    """What this needs of a model (worker/llama/model.py is the real one)."""

    vocabulary_size: int

    @property
    def reuse(self) -> Reuse: ...
    @property
    def bos_token(self) -> int | None: ...
    @property
    def eos_token(self) -> int | None: ...
    def text_of(self, token: int | None) -> str: ...


Pick = Callable[[int, int], tuple[int, float]]


def check_draft_model(target: Model, draft: Model) -> None:
    """Raises `ModelInvalid` unless the token ids of both mean the same, and wrong guesses can be taken back."""
    if draft.reuse.whole:
        raise ModelInvalid("a model with recurrent layers cannot be a draft model: it takes no token back")
    sizes = target.vocabulary_size, draft.vocabulary_size
    if abs(sizes[0] - sizes[1]) > _MAX_SIZE_DIFFERENCE:
        raise ModelInvalid(f"the draft model has {sizes[1]} tokens, the model {sizes[0]}: they must be the same")
    for name in ("bos_token", "eos_token"):
        ids = getattr(target, name), getattr(draft, name)
        if ids[0] != ids[1]:
            raise ModelInvalid(f"the draft model has another {name} than the model: {ids[1]}, not {ids[0]}")
    for token in range(0, min(sizes), max(1, min(sizes) // _NUM_COMPARED_TOKENS)):
        texts = target.text_of(token), draft.text_of(token)
        if texts[0] != texts[1]:
            raise ModelInvalid(f"token {token} of the draft model is {texts[1]!r}, that of the model {texts[0]!r}")


class _Slot:
    """What the draft model has of the sequence with this id, or of the last that had it; where there was no room for
    more, that sequence is given up."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.sequence: Sequence | None = None
        self.tokens: Tokens[int] = Tokens("i")
        self.num_decoded = 0
        self.is_given_up = False

    @property
    def is_idle(self) -> bool:
        sequence = self.sequence
        return sequence is None or not sequence.is_running or sequence.slot != self.id


class ModelDrafter:
    is_free = False

    def __init__(
        self,
        context: Context,
        reuse: Reuse,
        pick: Pick,
        num_slots: int,
        num_tokens: int,
        num_threads: Callable[[], int],
    ) -> None:
        """`pick` gives the likeliest token and its probability, for the context's handle and a row; only those below
        `num_tokens` are of use. Begins with an empty context."""
        self.token_seconds = 0.0
        self._context = context
        self._reuse = reuse
        self._pick = pick
        self._slots = [_Slot(id) for id in range(num_slots)]
        self._num_tokens = num_tokens
        self._num_threads = num_threads
        self._set_threads = 0
        context.clear()

    def keep_up(self, sequences: Listed[Sequence], *, is_alone: bool) -> None:
        self._compute(sequences, self._context.batch.capacity if is_alone else CHUNK_TOKENS)

    def draft(self, wanted: Listed[tuple[Sequence, int]]) -> "list[Tokens[int]]":
        drafts = [Tokens("i") for _ in wanted]
        asked = [number for number, (_, length) in enumerate(wanted) if length]
        if late := [wanted[number][0] for number in asked if self._num_missing(wanted[number][0]) > CHUNK_TOKENS]:
            self._compute(late, CHUNK_TOKENS)
        batch = self._context.batch
        batch.clear()
        rows = {}
        for number in asked:
            sequence = wanted[number][0]
            missing = self._num_missing(sequence)
            if 0 < missing <= min(CHUNK_TOKENS, batch.capacity - batch.size):
                rows[number] = self._add(sequence, missing, logits=True)
        while rows:
            began_at, num_rows = time.perf_counter(), len(rows)
            if not self._decode():
                break
            rows = self._go_on(wanted, drafts, rows)
            self._learn_cost((time.perf_counter() - began_at) / num_rows)
        return drafts

    def end(self, sequence: Sequence) -> None:
        for slot in self._slots:
            if slot.sequence is sequence:
                slot.sequence = None

    def _go_on(
        self, wanted: Listed[tuple[Sequence, int]], drafts: "list[Tokens[int]]", rows: dict[int, int]
    ) -> dict[int, int]:
        """Takes a token from each of the rows, and fills the batch with them; returns the rows of that."""
        picked = {number: self._pick(self._context.handle, row) for number, row in rows.items()}
        batch = self._context.batch
        batch.clear()
        rows = {}
        for number, (token, probability) in picked.items():
            (sequence, length), draft = wanted[number], drafts[number]
            if probability >= LEAST_PROBABILITY and token < self._num_tokens:
                draft.append(token)
                slot = self._slots[sequence.slot]
                if len(draft) < length:
                    rows[number] = batch.add(slot.id, draft[-1:], len(slot.tokens), logits=True)
                    slot.tokens.append(token)
        return rows

    def _compute(self, sequences: Listed[Sequence], budget: int) -> None:
        """So many of the tokens that are missing, but never a sequence's last."""
        batch = self._context.batch
        batch.clear()
        for sequence in sequences:
            count = min(self._num_missing(sequence) - 1, budget - batch.size)
            if count > 0:
                self._add(sequence, count, logits=False)
        if batch.size:
            self._decode()

    def _add(self, sequence: Sequence, count: int, *, logits: bool) -> int:
        slot = self._slots[sequence.slot]
        start = len(slot.tokens)
        tokens = sequence.tokens[start : start + count]
        slot.tokens += tokens
        return self._context.batch.add(slot.id, tokens, start, logits=logits)

    def _num_missing(self, sequence: Sequence) -> int:
        """How many tokens the draft model has not computed, at least the last one; 0 where it is given up."""
        slot = self._slots[sequence.slot]
        if slot.sequence is not sequence:
            self._take_over(sequence, slot)
        if slot.is_given_up:
            return 0
        known = common_length(slot.tokens, 0, sequence.tokens, 0, len(sequence.tokens) - 1)
        if known < len(slot.tokens):
            self._cut(slot, known)
        return len(sequence.tokens) - len(slot.tokens)

    def _take_over(self, sequence: Sequence, slot: _Slot) -> None:
        """Begins with the most that any slot has of the sequence."""
        slot.sequence, slot.is_given_up = sequence, False

        def common(slot: _Slot) -> int:
            return common_length(slot.tokens, 0, sequence.tokens, 0, min(slot.num_decoded, len(sequence.tokens) - 1))

        giver = max(self._slots, key=common)
        length = common(giver)
        if length > common(slot) and self._reuse.reaches(length, self._context.first_position(giver.id)):
            self._cut(slot, 0)
            self._context.copy(giver.id, slot.id, length)
            slot.tokens, slot.num_decoded = sequence.tokens[:length], length

    def _cut(self, slot: _Slot, length: int) -> None:
        """All beyond so many tokens goes; where a window has moved on, everything."""
        if not self._reuse.reaches(length, self._context.first_position(slot.id)):
            length = 0
        self._context.forget(slot.id, length)
        del slot.tokens[length:]
        slot.num_decoded = min(slot.num_decoded, length)

    def _decode(self) -> bool:
        """Runs the batch; False when that was not possible."""
        context = self._context
        if (num_threads := self._num_threads()) != self._set_threads:
            context.set_num_threads(num_threads)
            self._set_threads = num_threads
        try:
            context.decode()
        except (KVCacheFull, DecodeFailed):
            self._make_room()
            return False
        for slot in self._slots:
            slot.num_decoded = len(slot.tokens)
        return True

    def _make_room(self) -> None:
        """What ended sequences left goes; where they left nothing, those that could not be computed are given up."""
        is_any_idle = any(slot.tokens for slot in self._slots if slot.is_idle)
        for slot in self._slots:
            if slot.num_decoded < len(slot.tokens):
                slot.is_given_up = not is_any_idle
                self._cut(slot, 0 if slot.is_given_up else slot.num_decoded)
            elif slot.is_idle:
                self._cut(slot, 0)

    def _learn_cost(self, seconds: float) -> None:
        keep = _COST_MEMORY if self.token_seconds else 0.0
        self.token_seconds = keep * self.token_seconds + (1 - keep) * seconds
