"""A context that makes vectors in Python: of a token (its id, its place, the sum of all so far), and of a text what the
pooling makes of those of its tokens that are in the batch, as in llama.cpp."""

import array
from collections import defaultdict

from shimmy.core.request import Pooling
from shimmy.worker.llama.context import Batch, DecodeFailed

Vector = list[float]


def token_vectors(tokens: list[int]) -> list[Vector]:
    return [[float(token), float(at), float(sum(tokens[: at + 1]))] for at, token in enumerate(tokens)]


def pooled(vectors: list[Vector], pooling: Pooling) -> Vector:
    if pooling == "mean":
        return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]
    return vectors[0 if pooling == "cls" else -1]


def plain(tokens: list[int], pooling: Pooling) -> Vector:
    """What should come of a text, all at once."""
    vectors = token_vectors(tokens)
    return sum(vectors, []) if pooling == "none" else pooled(vectors, pooling)


class FakePooledContext:
    """`sizes` are the numbers of tokens in each batch so far. What must not happen fails an assertion."""

    def __init__(
        self,
        pooling: Pooling,
        *,
        max_tokens: int,
        is_whole: bool = False,
        batch_tokens: int = 16,
        num_sequences: int = 4,
        poison: int | None = None,
    ) -> None:
        """With the token `poison` in a batch it cannot be computed."""
        self.is_whole = is_whole
        self.num_sequences = num_sequences
        self.batch = Batch(max(batch_tokens, max_tokens) if is_whole else batch_tokens, num_sequences)
        self.sizes: list[int] = []
        self.num_rests = 0
        self.has_memory = True
        self._pooling = pooling
        self._poison = poison
        self._memory: defaultdict[int, list[int]] = defaultdict(list)
        self._rows: list[Vector] = []
        self._vectors: dict[int, Vector] = {}

    def has_room(self, num_cells: int, num_used: int) -> bool:
        assert num_used == sum(map(len, self._memory.values())) or self.is_whole
        return self.has_memory

    def decode(self) -> None:
        if self.is_whole:
            self._memory.clear()
        new: defaultdict[int, list[int]] = defaultdict(list)
        sequences = []
        for row in range(self.batch.size):
            address = self.batch._id_pointers[row]
            sequence = self.batch._id_addresses.index(address)
            assert self.batch._positions[row] == len(self._memory[sequence]) + len(new[sequence])
            new[sequence].append(self.batch._tokens[row])
            sequences.append(sequence)
        if self._poison in sum(new.values(), []):
            raise DecodeFailed("poison")
        self.sizes.append(self.batch.size)
        for sequence, tokens in new.items():
            self._memory[sequence] += tokens
        fresh = {each: token_vectors(self._memory[each])[-len(new[each]) :] for each in new}
        self._vectors = {each: pooled(vectors, self._pooling) for each, vectors in fresh.items()}
        self._rows = [fresh[sequence].pop(0) for sequence in sequences]

    def vector(self, sequence: int) -> bytes:
        assert self._pooling != "none"
        return array.array("f", self._vectors[sequence]).tobytes()

    def rows(self, start: int, count: int) -> bytes:
        assert self._pooling == "none"
        return array.array("f", sum(self._rows[start : start + count], [])).tobytes()

    def forget(self, sequence: int) -> None:
        self._memory.pop(sequence, None)

    def rest(self) -> None:
        assert not self._memory or self.is_whole
        self.num_rests += 1
