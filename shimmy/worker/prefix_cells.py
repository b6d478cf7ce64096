"""The cells of the KV cache and who has them: running sequences, and holders, which are sequence ids that never run.

Owns the prefix tree and the free holders, and counts: each token in the tree is one cell, and so is each computed token
of a running sequence beyond the node it is at. Every leaf's cells are held by its holder or by a sequence that runs.

Where layers see a window only (`Reuse.window`), llama.cpp overwrites what a sequence's next token will not see, unless
a second sequence has it too. So there every node gets a holder of its own: the window before its end stays. A
sequence's first position tells what is left of it.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Protocol

from shimmy.worker.prefix_states import Reuse
from shimmy.worker.prefix_tree import Inconsistent, Node, PrefixTree
from shimmy.worker.sequence import Sequence

log = logging.getLogger("shimmy.worker")

# Idle cells make the memory grow as long as there are no more of them: 1 GB for a model of 8 B parameters.
_GROWN_IDLE_CELLS = 8192


class Memory(Protocol):
    """What this needs of a context (worker/llama/context.py is the real one). A range of positions ends before `end`,
    or never where that is -1."""

    holders: range

    @property
    def num_cells(self) -> int: ...
    def grow(self, num_cells: int, num_used: int) -> bool: ...
    def shrink(self) -> None: ...
    def forget(self, sequence: int, start: int = 0, end: int = -1) -> None: ...
    def copy(self, source: int, target: int, end: int, start: int = 0) -> None: ...
    def first_position(self, sequence: int) -> int: ...
    def last_position(self, sequence: int) -> int: ...


class PrefixCells:
    def __init__(
        self, memory: Memory, reuse: Reuse, on_evict: Callable[[Node[Sequence]], None], max_idle_cells: int = 1 << 30
    ) -> None:
        """`on_evict` gets a leaf whose cells are about to be freed; its holder has them still. The memory does
        not grow for the sake of more than `max_idle_cells` that are idle."""
        self._memory = memory
        self._reuse = reuse
        self._on_evict = on_evict
        self._max_idle_cells = min(max_idle_cells, _GROWN_IDLE_CELLS)
        self._tree: PrefixTree[Sequence] = PrefixTree()
        self._running: list[Sequence] = []
        self._free_holders = list(reversed(memory.holders))

    @property
    def num_used(self) -> int:
        """Cells that hold something."""
        return self._tree.num_tokens + sum(each.num_computed - each.node.end for each in self._running)

    @property
    def num_idle(self) -> int:
        """Cells that no running sequence uses."""
        return self._tree.num_tokens - self._tree.num_locked

    @property
    def is_busy(self) -> bool:
        return bool(self._running)

    @property
    def num_claimed(self) -> int:
        """Cells that the running sequences have or will need for the tokens they know."""
        return self._tree.num_locked + sum(len(each.tokens) - each.node.end for each in self._running)

    def num_unlocked(self, node: Node[Sequence], length: int) -> int:
        """Cells that a sequence would keep from being evicted, were it to use the first `length` tokens to `node`."""
        return self._tree.num_unlocked(node, length)

    def match(self, sequence: Sequence, length: int) -> tuple[Node[Sequence], int]:
        """How much of the first `length` tokens the tree knows, and the node in which that ends."""
        return self._tree.match(sequence.namespace, sequence.tokens, length)

    def root(self, namespace: str) -> Node[Sequence]:
        return self._tree.root(namespace)

    def giver(self, node: Node[Sequence], length: int) -> int | None:
        """A sequence id from which the first `length` tokens on the way to `node` can be taken."""
        return next((id for id in _givers(node) if self.can_give(id, length)), None)

    def can_give(self, id: int, length: int) -> bool:
        return not self._reuse.window or self._reuse.reaches(length, self._memory.first_position(id))

    # Sequences that begin, go on and end

    def begin(self, sequence: Sequence, node: Node[Sequence], length: int, giver: int) -> None:
        """A sequence starts to run with the first `length` tokens on the way to `node`, copied from `giver`."""
        if length:
            node = self._tree.split(node, length)
            self._memory.copy(giver, sequence.slot, length)
            self._protect(node, giver)
        sequence.num_computed = length
        self._enter(sequence, node)

    def begin_apart(self, sequence: Sequence, length: int) -> None:
        """A sequence starts to run with `length` tokens in cells of its own."""
        sequence.num_computed = length
        self._enter(sequence, self._tree.root(sequence.namespace))

    def join(self, sequence: Sequence, length: int) -> bool:
        """Puts the first `length` computed tokens of a running sequence into the tree, and its cells with them.

        What the tree has already is exchanged for the tree's cells. False where that is not possible.
        """
        if length <= sequence.node.end:
            return True
        node, known = self.match(sequence, length)
        if known > sequence.node.end and not self._exchange(sequence, node, known):
            return False
        if known:
            node = self._tree.split(node, known)
        if known < length:
            node = self._tree.grow(node, sequence.tokens[known:length])
        self._leave(sequence)
        self._enter(sequence, node)
        self._tree.touch(node)
        self._protect(node, sequence.slot)
        return True

    def end(self, sequence: Sequence) -> None:
        """A sequence runs no longer. What it joined stays, what it did not is freed."""
        node, slot = sequence.node, sequence.slot
        if node.parent and not any(id != slot for id in _givers(node)) and self.can_give(slot, node.end):
            # While it still uses the node, since a holder may have to be taken from another leaf.
            node.holder = self._new_holder(slot, node.end)
        self._leave(sequence)
        self._prune(node)
        self._memory.forget(slot)

    # Room

    def make_room(self, num_cells: int) -> bool:
        """Grows or evicts leaves until so many cells are free; False when that is not possible."""
        while self._num_missing(num_cells) > 0 and self.num_idle > self._max_idle_cells and self.evict():
            pass
        if self._num_missing(num_cells) > 0:
            self.grow(self.num_used + num_cells)
        while self._num_missing(num_cells) > 0:
            if not self.evict():
                # What was too much beside idle cells may be there without them.
                return self.grow(self.num_used + num_cells)
        return True

    def grow(self, num_cells: int) -> bool:
        """Whether there are so many cells in all, now at least."""
        return self._memory.grow(num_cells, self.num_used)

    def _num_missing(self, num_cells: int) -> int:
        return num_cells - (self._memory.num_cells - self.num_used)

    def evict(self) -> bool:
        """Frees the cells of the least recently used leaf; False when all are in use."""
        leaf = self._tree.oldest_leaf()
        if leaf is None:
            return False
        self._on_evict(leaf)
        holder = leaf.holder
        assert holder is not None
        parent = self._tree.remove(leaf)
        if not _is_held(parent):
            self._memory.forget(holder, parent.end)
            if self.can_give(holder, parent.end):
                parent.holder = holder
                return True
        self._release(holder)
        self._prune(parent)
        return True

    # Self-check

    def check(self) -> None:
        """Compares what the tree says with itself and with llama.cpp; what is wrong is logged and dropped."""
        try:
            self._tree.check()
        except Inconsistent as error:
            log.error("the prefix tree is inconsistent and is dropped: %s", error)
            self._reset()
        if not self.num_used:
            self._memory.shrink()
        for node in list(self._tree.nodes()):
            if node.holder is not None and (fault := self._fault(node)):
                log.error("a kept prefix of %d tokens is dropped: %s", node.end, fault)
                self._release(node.holder)
                node.holder = None
                self._prune(node)

    def _fault(self, node: Node[Sequence]) -> str | None:
        assert node.holder is not None
        first, last = self._memory.first_position(node.holder), self._memory.last_position(node.holder)
        is_whole = 0 <= first <= last if self._reuse.window else first == 0
        if last != node.end - 1 or not is_whole:
            return f"sequence {node.holder} has positions {first} to {last}"
        return None

    def _reset(self) -> None:
        """Forgets all holders; running sequences have all cells that they need, and count them as their own now."""
        self._tree = PrefixTree()
        self._free_holders = list(reversed(self._memory.holders))
        for holder in self._free_holders:
            self._memory.forget(holder)
        running, self._running = self._running, []
        for sequence in running:
            self._enter(sequence, self._tree.root(sequence.namespace))

    # Holders

    def _enter(self, sequence: Sequence, node: Node[Sequence]) -> None:
        sequence.node = node
        self._running.append(sequence)
        self._tree.enter(node, sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._tree.leave(sequence.node, sequence)
        self._running.remove(sequence)

    def _exchange(self, sequence: Sequence, node: Node[Sequence], end: int) -> bool:
        """Replaces a sequence's own cells up to `end` by those of the tree, of which there must not be fewer."""
        slot, start, memory = sequence.slot, sequence.node.end, self._memory
        first = memory.first_position(slot) if self._reuse.window else 0
        for id in _givers(node):
            if not self._reuse.window or 0 <= memory.first_position(id) <= first <= end:
                memory.forget(slot, start, end)
                memory.copy(id, slot, end, start)
                return True
        return False

    def _protect(self, node: Node[Sequence], giver: int) -> None:
        """See above; only with a holder that is free: this must not cost another prefix its place."""
        if self._reuse.window and node.holder is None and self._free_holders and self.can_give(giver, node.end):
            node.holder = self._new_holder(giver, node.end)

    def _new_holder(self, giver: int, length: int) -> int | None:
        """`giver` must not be a holder itself, unless one is free."""
        while not self._free_holders:
            if not self._drop_spare_holder() and not self.evict():
                return None
        holder = self._free_holders.pop()
        self._memory.copy(giver, holder, length)
        return holder

    def _drop_spare_holder(self) -> bool:
        """Frees the least recently used holder whose cells others have as well."""
        spare = (node for node in self._tree.nodes() if node.holder is not None and (node.children or node.runners))
        node = min(spare, key=lambda node: node.used_at, default=None)
        if node is None or node.holder is None:
            return False
        self._release(node.holder)
        node.holder = None
        return True

    def _release(self, holder: int) -> None:
        self._memory.forget(holder)
        self._free_holders.append(holder)

    def _prune(self, node: Node[Sequence]) -> None:
        """Removes a node whose cells nobody holds, and those above it that were there for its sake."""
        while not _is_held(node):
            node = self._tree.remove(node)


def _givers(node: Node[Sequence]) -> Iterator[int]:
    """All sequence ids that have the cells from the root to the end of `node`, its own holder first."""
    for each in node.subtree():
        if each.holder is not None:
            yield each.holder
        for runner in each.runners:
            yield runner.slot


def _is_held(node: Node[Sequence]) -> bool:
    """True for a root, which has no cells."""
    return node.parent is None or next(_givers(node), None) is not None
