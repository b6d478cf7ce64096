"""A context made of Python lists: it remembers which token stands in which cell, and "samples" from exactly those."""

from shimmy.worker.llama.context import Batch, KVCacheFull


def next_token(tokens: list[int], vocabulary_size: int) -> int:
    """The fake model: a deterministic function of everything that came before."""
    value = 17
    for token in tokens:
        value = (value * 31 + token + 7) % 1_000_003
    return value % vocabulary_size


class FakeContext:
    """Cells are shared as in a unified KV cache: a prefix that two sequences share counts once."""

    handle = 0

    def __init__(self, *, context_length: int, num_sequences: int, batch_tokens: int = 64) -> None:
        self.context_length = context_length
        self.batch = Batch(batch_tokens, num_sequences)
        self.cells: dict[int, list[tuple[int, object]]] = {slot: [] for slot in range(num_sequences)}
        self.num_decodes = 0
        self.largest_batch = 0
        self.num_threads: int | None = None

    def decode(self) -> None:
        rows = self._rows()
        assert rows, "an empty batch was decoded"
        added = len(rows)
        used = len({id(cell) for cells in self.cells.values() for _, cell in cells})
        if used + added > self.context_length:
            raise KVCacheFull
        for token, position, slot in rows:
            assert position == len(self.cells[slot]), "positions of a sequence must be contiguous"
            self.cells[slot].append((token, object()))
        self.num_decodes += 1
        self.largest_batch = max(self.largest_batch, added)
        self.row_slots = [slot for _, _, slot in rows]
        self.row_logits = list(self.batch._wants_logits[: self.batch.size])

    def forget(self, sequence: int) -> None:
        self.cells[sequence] = []

    def share_prefix(self, source: int, target: int, length: int) -> bool:
        assert not self.cells[target] and len(self.cells[source]) >= length
        self.cells[target] = self.cells[source][:length]
        return True

    def set_num_threads(self, count: int) -> None:
        self.num_threads = count

    def _rows(self) -> list[tuple[int, int, int]]:
        batch, base = self.batch, self.batch._id_addresses[0]
        return [
            (batch._tokens[row], batch._positions[row], (batch._id_pointers[row] - base) // 4)
            for row in range(batch.size)
        ]


class FakeSampler:
    """Reads the cells of the slot that a row belongs to, as the logits of a real row depend on them."""

    def __init__(self, context: FakeContext, vocabulary_size: int) -> None:
        self._context = context
        self._vocabulary_size = vocabulary_size
        self.freed = False

    def sample(self, context: int, row: int) -> int:
        assert not self.freed
        assert self._context.row_logits[row], "a row without logits was sampled"
        slot = self._context.row_slots[row]
        return next_token([token for token, _ in self._context.cells[slot]], self._vocabulary_size)

    def free(self) -> None:
        assert not self.freed
        self.freed = True
