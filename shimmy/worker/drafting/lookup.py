"""Prompt lookup: a text goes on as it did when its latest tokens came up before, in itself or in what the client
predicts. Costs microseconds a step, however long the text, and 8 bytes a token."""

import array
from collections.abc import Sequence as Listed

from shimmy.worker.sequence import Sequence

Tokens = array.array  # of "i"

# So many tokens must have come up before. In edits of code 2 to 8 do equally well: a place, once found, is followed.
NGRAM_TOKENS = 3
# So many tokens of a prompt are taken in at once, which takes less than 1 ms; the rest waits for the next steps.
CHUNK_TOKENS = 1024

_APART = array.array("i", [-1])
_MIN_BITS = 10


class NgramIndex:
    """Where each n-gram of a text that grows came up last. A tuple of numbers has the same hash in every process, which
    bytes have not, so that the same requests are drafted alike.

    The table has room for twice the tokens that the text begins with. What does not fit pushes other n-grams out, and
    what is found is compared with the text.
    """

    def __init__(self, text: "Tokens[int]") -> None:
        self.text = text
        bits = max(_MIN_BITS, (2 * len(text)).bit_length())
        self._mask = (1 << bits) - 1
        self._table = array.array("i", bytes(4 << bits))
        self._num_indexed = 0

    def grow(self) -> None:
        """Takes in some more of the text, all but its last token: nothing has followed that yet."""
        text, table, mask = self.text, self._table, self._mask
        start, end = self._num_indexed + 1, min(len(text), self._num_indexed + 1 + CHUNK_TOKENS)
        for at in range(max(start, NGRAM_TOKENS), end):
            table[hash(tuple(text[at - NGRAM_TOKENS : at])) & mask] = at
        self._num_indexed = max(start, end) - 1

    def find(self) -> int:
        """The place of what followed the latest tokens when they came up before; -1 when they did not."""
        latest = self.text[-NGRAM_TOKENS:]
        at = self._table[hash(tuple(latest)) & self._mask]
        return at if at and self.text[at - NGRAM_TOKENS : at] == latest else -1


class Lookup:
    """The text of one sequence, and the place in it from which the next tokens are drafted, -1 for none."""

    def __init__(self, prompt: "Tokens[int]", prediction: Listed[int]) -> None:
        """The answer is taken to begin as the `prediction` does, if there is one."""
        text = prompt[:]
        if prediction:
            text += _APART + Tokens("i", prediction) + _APART
        self._index = NgramIndex(text)
        self._place = len(prompt) + 1 if prediction else -1
        self.num_tokens = len(prompt)

    def grow(self) -> None:
        """Takes in some more of the prompt."""
        self._index.grow()

    def push(self, tokens: "Tokens[int]") -> None:
        """The text goes on with these."""
        text = self._index.text
        self.num_tokens += len(tokens)
        for token in tokens:
            self._place = self._place + 1 if self._place >= 0 and text[self._place] == token else -1
            text.append(token)
        self._index.grow()
        if self._place < 0:
            self._place = self._index.find()

    def draft(self, length: int) -> "Tokens[int]":
        """At most so many tokens; a text that repeats itself goes on doing so."""
        if self._place < 0:
            return Tokens("i")
        draft = self._index.text[self._place : self._place + length]
        if _APART[0] in draft:
            return draft[: draft.index(_APART[0])]
        while draft and len(draft) < length:
            draft += draft[: length - len(draft)]
        return draft


class LookupDrafter:
    """Drafts by `Lookup`, one for each sequence."""

    is_free = True
    token_seconds = 0.0

    def __init__(self) -> None:
        self._lookups: dict[Sequence, Lookup] = {}

    def keep_up(self, sequences: Listed[Sequence], *, is_alone: bool) -> None:
        for sequence in sequences:
            self._lookup(sequence).grow()

    def draft(self, wanted: Listed[tuple[Sequence, int]]) -> "list[Tokens[int]]":
        drafts = []
        for sequence, length in wanted:
            lookup = self._lookup(sequence)
            lookup.push(sequence.tokens[lookup.num_tokens :])
            drafts.append(lookup.draft(length))
        return drafts

    def end(self, sequence: Sequence) -> None:
        self._lookups.pop(sequence, None)

    def _lookup(self, sequence: Sequence) -> Lookup:
        if (found := self._lookups.get(sequence)) is None:
            found = self._lookups[sequence] = Lookup(sequence.request.prompt, sequence.request.prediction)
        return found
