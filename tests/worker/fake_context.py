"""A context made of Python dictionaries: it remembers which token stands in which cell, and "samples" from exactly
those.

Like llama.cpp it does what it is told, also when that leaves a sequence without cells that it needs: the assertions
here are what makes such a mistake visible.
"""

import array
import random
from collections.abc import Callable

from shimmy.core.events import TokenLogprob
from shimmy.worker.adapters import AdapterSet
from shimmy.worker.llama.context import Batch, KVCacheFull
from shimmy.worker.prefix_states import Reuse

# States, which may be another context's, say by number with which adapters they were computed.
_MOST_CELLS = 1 << 16
_known_sets: list[AdapterSet] = [()]


def next_token(tokens: list[int], vocabulary_size: int, adapters: AdapterSet = ()) -> int:
    """The fake model: a deterministic function of everything that came before, and of the adapters."""
    value = 17 + sum(int(1000 * scale) * (number + 1) for number, scale in adapters)
    for token in tokens:
        value = (value * 31 + token + 7) % 1_000_003
    return value % vocabulary_size


class Cell:
    """A token at a position, computed with these adapters; sequences that share a prefix have the same cell."""

    def __init__(self, token: int, adapters: AdapterSet = ()) -> None:
        self.token = token
        self.adapters = adapters


class FakeContext:
    """Cells are shared as in a unified KV cache: a prefix that two sequences share counts once.

    With a window, `near` has the cells of the layers that see no more than that. As llama.cpp may, whenever it stores
    something, it overwrites some of what no token after the last decode can see, where only one sequence has it; but
    not without a `seed`. With `whole` there is one state for each sequence, which can only be extended, saved, replaced
    and forgotten. It begins with `first_cells`, if that is less than its length, and has more when `grows` says so.
    """

    handle = 0

    def __init__(
        self,
        *,
        context_length: int,
        num_sequences: int,
        batch_tokens: int = 64,
        reuse: Reuse = Reuse(),  # noqa: B008
        num_holders: int = 40,
        seed: int | None = None,
        first_cells: int = 1 << 30,
        grows: Callable[[int], bool] = lambda num_cells: True,
        max_prompt_rows: int = 20,
    ) -> None:
        self.max_prompt_rows = max_prompt_rows
        self.context_length = context_length
        self.num_cells = self.first_cells = min(context_length, first_cells)
        self._grows = grows
        self.reuse = reuse
        self.batch = Batch(batch_tokens, num_sequences)
        self.holders = range(num_sequences, num_sequences + (0 if reuse.whole else num_holders))
        self.cells: dict[int, dict[int, Cell]] = {id: {} for id in range(num_sequences + num_holders)}
        self.near: dict[int, dict[int, Cell]] = {id: {} for id in self.cells}
        self.num_decodes = 0
        self.num_computed = 0
        self.largest_batch = 0
        self.num_full = 0
        self.num_threads: int | None = None
        self.adapters: AdapterSet = ()
        self.num_switches = 0
        self._ends: dict[int, int] = {}
        self._dice = random.Random(seed)
        self._overwrites = seed is not None

    @property
    def num_used(self) -> int:
        if self.reuse.whole:
            return sum(map(len, self.cells.values()))
        return len({id(cell) for cells in self.cells.values() for cell in cells.values()})

    def grow(self, num_cells: int, num_used: int) -> bool:
        assert num_used == self.num_used
        if num_cells > self.num_cells and num_cells <= self.context_length and self._grows(num_cells):
            self.num_cells = num_cells
        return num_cells <= self.num_cells

    def shrink(self) -> None:
        assert not self.num_used
        self.num_cells = self.first_cells

    def decode(self) -> None:
        rows = self._rows()
        assert rows, "an empty batch was decoded"
        self._require_free(len(rows))
        self._ends = {id: len(cells) for id, cells in self.cells.items()}
        for token, position, slot in rows:
            assert slot not in self.holders
            self._store(slot, position, token)
        self._ends.clear()
        self.num_decodes += 1
        self.num_computed += len(rows)
        self.largest_batch = max(self.largest_batch, len(rows))
        self.row_slots = [slot for _, _, slot in rows]
        self.row_positions = [position for _, position, _ in rows]
        self.row_logits = list(self.batch._wants_logits[: self.batch.size])

    def tokens(self, id: int) -> list[int]:
        cells = self.cells[id]
        assert sorted(cells) == list(range(len(cells))), "there is a hole in what a sequence has"
        return [cells[position].token for position in range(len(cells))]

    def adapters_of(self, id: int) -> AdapterSet:
        """Those with which all that a sequence has was computed."""
        [adapters] = {cell.adapters for cell in self.cells[id].values()}
        return adapters

    def forget(self, sequence: int, start: int = 0, end: int = -1) -> None:
        assert not self.reuse.whole or (start, end) == (0, -1), "a recurrent state cannot be cut"
        for cells in (self.cells[sequence], self.near[sequence]):
            for position in [each for each in cells if each >= start and (end < 0 or each < end)]:
                del cells[position]

    def copy(self, source: int, target: int, end: int, start: int = 0) -> None:
        assert not self.reuse.whole, "a recurrent state must not be copied by positions"
        assert source != target
        for ours, theirs in ((self.cells[target], self.cells[source]), (self.near[target], self.near[source])):
            for position, cell in theirs.items():
                if start <= position < end or end < 0:
                    assert ours.setdefault(position, cell) is cell, "a sequence has two cells for one position"

    def first_position(self, sequence: int) -> int:
        if self.reuse.whole:
            return len(self.cells[sequence]) - 1
        return min(self.near[sequence] if self.reuse.window else self.cells[sequence], default=-1)

    def last_position(self, sequence: int) -> int:
        return max(self.near[sequence] if self.reuse.window else self.cells[sequence], default=-1)

    def state_bytes(self, sequence: int) -> int:
        return 4 * len(self.cells[sequence]) + 4

    def save_state(self, sequence: int) -> bytes:
        first = max(self.first_position(sequence), len(self.cells[sequence]) - self.reuse.window)
        adapters = self.adapters_of(sequence) if self.cells[sequence] else ()
        if adapters not in _known_sets:
            _known_sets.append(adapters)
        number = _known_sets.index(adapters)
        return array.array("i", [first + _MOST_CELLS * number, *self.tokens(sequence)]).tobytes()

    def load_state(self, sequence: int, state: bytes) -> bool:
        first, *tokens = array.array("i", state)
        number, first = divmod(first, _MOST_CELLS)
        self.forget(sequence)
        self._require_free(len(tokens))
        adapters = _known_sets[number]
        self.cells[sequence] = cells = {position: Cell(token, adapters) for position, token in enumerate(tokens)}
        if self.reuse.window:
            self.near[sequence] = {position: cell for position, cell in cells.items() if position >= first}
        return True

    def set_adapters(self, adapters: AdapterSet) -> None:
        self.num_switches += adapters != self.adapters
        self.adapters = adapters

    def set_num_threads(self, count: int) -> None:
        self.num_threads = count

    def _require_free(self, num_cells: int) -> None:
        if self.num_used + num_cells > self.num_cells:
            self.num_full += 1
            raise KVCacheFull

    def _store(self, slot: int, position: int, token: int) -> None:
        assert position == len(self.cells[slot]), "positions of a sequence must be contiguous"
        self.cells[slot][position] = Cell(token, self.adapters)
        if window := self.reuse.window:
            if self._overwrites:
                self.overwrite()
            near = self.near[slot]
            assert all(each in near for each in range(max(0, position + 1 - window), position)), "a window has a hole"
            near[position] = self.cells[slot][position]

    def overwrite(self) -> None:
        """Takes a cell away that is out of sight for the only sequence that has it, and all before it from that one."""
        ends = self._ends or {id: len(cells) for id, cells in self.cells.items()}
        ids = [id for id, cells in self.near.items() if len(cells) > self.reuse.window]
        if not ids or self._dice.random() < 0.5:
            return
        id = self._dice.choice(ids)
        cells = self.near[id]
        position = self._dice.choice(list(cells))
        is_shared = sum(other.get(position) is cells[position] for other in self.near.values()) > 1
        if not is_shared and ends[id] - position >= self.reuse.window:
            for each in [each for each in cells if each <= position]:
                del cells[each]

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
        self.sampled: list[int] = []

    def sample(self, context: int, row: int) -> int:
        assert not self.freed
        self.sampled.append(self._next(row))
        return self.sampled[-1]

    def tell(self, context: int, row: int, token: int) -> TokenLogprob:
        """Instead of a probability, which token would have come."""
        assert not self.freed
        return TokenLogprob(b"", -float(self._next(row)))

    def _next(self, row: int) -> int:
        assert self._context.row_logits[row], "a row without logits was read"
        slot, position = self._context.row_slots[row], self._context.row_positions[row]
        tokens, adapters = self._context.tokens(slot)[: position + 1], self._context.adapters_of(slot)
        return next_token(tokens, self._vocabulary_size, adapters)

    def force(self, context: int, row: int, token: int) -> None:
        assert not self.freed
        self.sampled.append(token)

    def begin_answer(self) -> None:
        pass

    def hold(self, name: str, text: str) -> None:
        pass

    @property
    def is_complete(self) -> bool:
        return False

    def is_met(self, text: str, *, is_cut: bool) -> bool:
        return True

    def take_logprob(self) -> TokenLogprob:
        assert self.sampled, "there is no token to tell of"
        return TokenLogprob(b"<%d>" % self.sampled.pop(0), -1.0)

    def free(self) -> None:
        assert not self.freed
        self.freed = True
