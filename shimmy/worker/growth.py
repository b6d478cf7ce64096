"""How many cells of the KV cache may be used at the moment. Knows numbers, neither sequences nor llama.cpp.

A cell takes memory from when something is first stored in it (llama/zeroing.py). So growing moves nothing and takes no
time: it is the permission to use more cells, which is given while there is memory for them.
"""

import logging
from collections.abc import Callable

from shimmy.hardware.memory import Memory, memory

log = logging.getLogger("shimmy.worker")

# Given without a look at the memory: without so many there is no sense in serving.
FIRST_CELLS = 2048
STEP_CELLS = 1024
# This part of all memory is left to others.
SPARE_PART = 16


class Growth:
    """Owns `num_cells`, which may be used now, and `limit`, which they never exceed."""

    def __init__(self, limit: int, cell_bytes: int, measure: Callable[[], Memory | None] = memory) -> None:
        """`cell_bytes` is what each cell will take; 0 where the context has all of its memory from the start."""
        self._cell_bytes = cell_bytes
        self._measure = measure
        self.limit = limit
        self.num_cells = self._first = min(limit, FIRST_CELLS) if cell_bytes else limit
        # Have been used, and have their memory.
        self._num_touched = 0
        self._is_short = False

    @property
    def has_grown(self) -> bool:
        return self.num_cells > self._first

    def fit_memory(self) -> None:
        """Lowers the limit to what there is memory for at the moment."""
        if self._cell_bytes and (left := self._left_bytes()) is not None:
            self.limit = min(self.limit, max(self._first, left // self._cell_bytes))

    def grow(self, num_cells: int, num_used: int) -> bool:
        """Whether `num_cells` may be used now. `num_used` of them hold something."""
        if num_cells <= self.num_cells:
            return True
        if num_cells > self.limit:
            return False
        self._num_touched = max(self._num_touched, num_used)
        target = min(self.limit, -(-num_cells // STEP_CELLS) * STEP_CELLS)
        missing, left = (target - self._num_touched) * self._cell_bytes, self._left_bytes()
        is_short = left is not None and missing > left
        if is_short and not self._is_short:
            log.warning(
                "no memory for %d tokens in the KV cache: %d MB more are needed, %d MB are left; requests wait",
                *(num_cells, missing >> 20, (left or 0) >> 20),
            )
        self._is_short = is_short
        if not is_short:
            self.num_cells = target
            log.debug("the KV cache may hold %d tokens now", target)
        return not is_short

    def shrink(self) -> None:
        """Nothing holds anything any more, and the memory has been given back."""
        self.num_cells, self._num_touched = self._first, 0

    def _left_bytes(self) -> int | None:
        found = self._measure()
        return found and found.available_bytes - found.total_bytes // SPARE_PART
