"""What a new sequence can take over instead of computing it: cells of others, running or not, or a saved state.

Decides where a prefix comes from and what is worth waiting or saving for. It knows neither who runs next nor what a
batch computes; prefix_cells.py has the cells, prefix_states.py the states.

Where a memory is whole (`Reuse.whole`, recurrent layers), nothing can be copied and the tree stays empty: states are
saved where a prompt ends, where prompts part, and where a sequence ends. A disk, which outlives the cells, gets states
while these are still there: of prompts, of whole sequences and, where layers see a window, of where prompts part.
"""

from collections import deque
from collections.abc import Sequence as Listed
from typing import NamedTuple, Protocol

from shimmy.worker import prefix_cells
from shimmy.worker.prefix_cells import PrefixCells
from shimmy.worker.prefix_states import Fetch, Hit, LastingTier, Reuse, StateTier
from shimmy.worker.prefix_tree import Node, Tokens, common_length
from shimmy.worker.sequence import Sequence

# For fewer tokens it is not worth waiting a step, or restoring a state.
MIN_GAIN_TOKENS = 16
# A state of fewer tokens is not worth its place.
MIN_SAVED_TOKENS = 32
_NUM_RECENT = 64


class Memory(prefix_cells.Memory, Protocol):
    """What this needs of a context beyond its cells."""

    def state_bytes(self, sequence: int) -> int: ...
    def save_state(self, sequence: int) -> bytes: ...
    def load_state(self, sequence: int, state: bytes) -> bool: ...


class Saved(NamedTuple):
    tier: StateTier
    hit: Hit


class Prefix(NamedTuple):
    """What there is for a sequence that waits: `length` tokens that can be copied from sequence id `giver`.

    They lie on the way to `node`; those beyond its end are the running `peer`'s own. Where `saved` is set, that state
    is better. `promised` tokens, if any, `peer` will have computed soon: better to wait for them than to begin.
    """

    node: Node[Sequence]
    length: int = 0
    giver: int = -1
    peer: Sequence | None = None
    saved: Saved | None = None
    promised: int = 0


class PrefixCache:
    def __init__(
        self,
        memory: Memory,
        reuse: Reuse,
        tiers: Listed[StateTier] = (),
        max_idle_cells: int = 1 << 30,
        disk: LastingTier | None = None,
    ) -> None:
        """Cells that no running sequence uses go to the tiers when there are more than `max_idle_cells` of them. The
        `disk`, from which nothing is back at once, is the last of the tiers; it gets prompts and what was answered even
        while they stay in the cache."""
        self._memory = memory
        self._reuse = reuse
        self._near = tiers
        self._disk = disk
        self._tiers = [*tiers, disk] if disk else tiers
        self._max_idle_cells = max_idle_cells
        self._cells = PrefixCells(memory, reuse, self._save_leaf, max_idle_cells)
        # Running sequences whose prompts the disk has not been offered yet.
        self._unsaved: deque[Sequence] = deque()
        # What came lately, to tell where prompts part; only where a tree does not know it.
        self._recent: deque[tuple[str, Tokens[int]]] = deque(maxlen=_NUM_RECENT)

    @property
    def num_used(self) -> int:
        """Cells that hold something."""
        return self._cells.num_used

    def find(self, sequence: Sequence) -> Prefix:
        """The best there is for a sequence that waits; at least its last token is left to compute, for its logits."""
        limit = sequence.num_reusable
        node, length = self._cells.match(sequence, limit)
        peers = _peers(sequence, node, length, limit)
        found = self._resident(node, length, peers)
        saved = self._best_state(sequence, limit, found.length)
        promising, promised = self._promise(sequence, peers)
        if promised - max(found.length, saved.hit.length if saved else 0) >= MIN_GAIN_TOKENS:
            return found._replace(peer=promising, promised=promised)
        return found._replace(saved=saved)

    def fits(self, sequence: Sequence, prefix: Prefix) -> bool:
        """Whether all of the sequence's tokens have room beside those of the running ones, in a memory that grows."""
        if prefix.saved:
            more = len(sequence.tokens)
        else:
            more = self._cells.num_unlocked(prefix.node, prefix.length) + len(sequence.tokens) - prefix.length
        return self._cells.grow(self._cells.num_claimed + more + 1)

    def fetched(self, sequence: Sequence, prefix: Prefix, seconds: float) -> bool:
        """Whether what was found for the sequence is at hand. For as long as `seconds` it is read further where it lies
        on the disk."""
        saved = prefix.saved
        if saved is None or self._disk is None or saved.tier is not self._disk:
            return True
        if sequence.fetch is None or sequence.fetch.hit != saved.hit:
            sequence.fetch = Fetch(saved.hit, self._disk.reading(saved.hit))
        return sequence.fetch.go_on(seconds)

    def begin(self, sequence: Sequence, prefix: Prefix) -> None:
        """The sequence has got a slot, and takes over what was just found for it."""
        if prefix.saved and not self._restore(sequence, prefix.saved):
            # Room was made for the state, perhaps at the cost of what was found besides it.
            limit = sequence.num_reusable
            node, length = self._cells.match(sequence, limit)
            self._take(sequence, self._resident(node, length, _peers(sequence, node, length, limit)))
        elif not prefix.saved:
            self._take(sequence, prefix)
        sequence.fetch = None
        if self._reuse.whole and self._tiers:
            self._plan_stops(sequence)
        elif self._reuse.window and self._disk:
            self._plan_stop(sequence, self._disk)

    def stopped(self, sequence: Sequence) -> None:
        """The sequence has computed its tokens up to one of its `stops`."""
        tiers = self._tiers if self._reuse.whole else [self._disk] if self._reuse.window and self._disk else []
        self._save(sequence.slot, sequence.tokens[: sequence.num_computed], sequence.namespace, tiers)

    def finished_prompt(self, sequence: Sequence) -> None:
        """All of the prompt but its last token is computed, which is as much of it as can be used again."""
        if not self._reuse.whole:
            self._cells.join(sequence, sequence.num_prompt - 1)
            if self._disk:
                self._unsaved.append(sequence)

    def save_prompt(self) -> None:
        """Offers the disk a prompt that was finished, at most one, since that takes 1 to 2.5 ms for 1,000 tokens. To be
        called when the first token that came of the prompt is on its way."""
        if self._unsaved and self._disk:
            sequence = self._unsaved.popleft()
            tokens = sequence.tokens[: sequence.num_computed]
            self._save(sequence.slot, tokens, sequence.namespace, [self._disk])

    def end(self, sequence: Sequence, *, sound: bool = True) -> None:
        """The sequence gives its slot back; what it computed is kept if it is sound."""
        if sequence in self._unsaved:
            self._unsaved.remove(sequence)
        if sound and sequence.num_computed:
            self._keep(sequence)
        self._cells.end(sequence)
        if self._cells.is_busy:
            self._clear_out()

    def make_room(self, num_cells: int) -> bool:
        """Frees kept cells until so many are free; False when too many are in use."""
        return self._cells.make_room(num_cells)

    def evict(self) -> bool:
        """Frees some kept cells; False when there are none."""
        return self._cells.evict()

    def check(self) -> None:
        """Clears out, and looks for contradictions; what is wrong is logged and dropped. For idle moments."""
        self._clear_out()
        self._cells.check()

    # Finding

    def _resident(self, node: Node[Sequence], length: int, peers: "list[tuple[Sequence, int]]") -> Prefix:
        """The longest prefix that can be copied, given that the tree knows `length` tokens on the way to `node`."""
        best = Prefix(node, length)
        for peer, common in peers if not self._reuse.whole else ():
            ready = min(common, peer.num_computed)
            if ready > best.length and self._cells.can_give(peer.slot, ready):
                best = Prefix(node, ready, peer.slot, peer)
        if best.peer:
            return best
        for each in node.path():
            end = min(length, each.end)
            if (giver := self._cells.giver(each, end)) is not None:
                return Prefix(each, end, giver)
        return Prefix(self._cells.root(node.namespace))

    def _promise(self, sequence: Sequence, peers: "list[tuple[Sequence, int]]") -> "tuple[Sequence | None, int]":
        """Who will soon have computed most of what the sequence needs, and how much that is."""
        best: tuple[Sequence | None, int] = (None, 0)
        if not self._reuse.whole or self._near:
            for peer, common in peers:
                is_behind = peer.request.paused or peer.request.priority > sequence.request.priority
                if common > max(best[1], peer.num_computed) and not is_behind:
                    best = (peer, common)
        return best

    def _best_state(self, sequence: Sequence, limit: int, length: int) -> Saved | None:
        """A state that is worth restoring where `length` tokens can be copied."""
        best = None
        for tier in self._tiers:
            if limit - length < MIN_GAIN_TOKENS:
                break
            hit = tier.match(sequence.tokens, sequence.namespace)
            if hit is not None and MIN_GAIN_TOKENS <= hit.length - length <= limit - length:
                best, length = Saved(tier, hit), hit.length
        return best

    # Beginning

    def _take(self, sequence: Sequence, prefix: Prefix) -> None:
        node = prefix.node
        if prefix.peer is not None:
            self._cells.join(prefix.peer, prefix.length)
            node, _ = self._cells.match(sequence, prefix.length)
        self._cells.begin(sequence, node, prefix.length, prefix.giver)

    def _restore(self, sequence: Sequence, saved: Saved) -> bool:
        """Begins with a saved state; False where that is not possible after all."""
        memory, slot, hit = self._memory, sequence.slot, saved.hit
        fetch = sequence.fetch
        state = fetch.whole() if fetch is not None and fetch.hit == hit else saved.tier.fetch(hit)
        if state is None or not self._cells.make_room(hit.stored):
            return False
        is_read = memory.load_state(slot, state) and memory.last_position(slot) == hit.stored - 1
        if not is_read or not self._cells.can_give(slot, hit.length):
            # What cannot be read may have been read in part.
            memory.forget(slot)
            return False
        if hit.length < hit.stored:
            memory.forget(slot, hit.length)
        self._cells.begin_apart(sequence, hit.length)
        if not self._reuse.whole:
            self._cells.join(sequence, hit.length)
        return True

    def _plan_stops(self, sequence: Sequence) -> None:
        """Where others may want to go on from: the end of the prompt, and where it parts from the one most like it."""
        tokens, namespace = sequence.tokens, sequence.namespace
        others = (other for its, other in self._recent if its == namespace)
        parting = max((common_length(tokens, 0, other, 0, len(tokens)) for other in others), default=0)
        if self._disk:
            parting = max(parting, self._disk.parting(tokens, namespace))
        for length in (sequence.num_prompt - 1, parting):
            if max(MIN_SAVED_TOKENS, sequence.num_computed + 1) <= length < len(tokens):
                sequence.stop_at(length)
        self._recent.append((namespace, tokens))

    def _plan_stop(self, sequence: Sequence, disk: LastingTier) -> None:
        """Where a window is in the way, what prompts begin with is found on the disk only if it is stored by itself."""
        parting = disk.parting(sequence.tokens, sequence.namespace)
        if parting == sequence.num_computed:
            self._save(sequence.slot, sequence.tokens[:parting], sequence.namespace, [disk])
        elif max(MIN_SAVED_TOKENS, sequence.num_computed + 1) <= parting < sequence.num_prompt - 1:
            sequence.stop_at(parting)

    # Saving

    def _clear_out(self) -> None:
        """Every cell that is not free slows all steps down, while a state in RAM is back in a few milliseconds."""
        while self._near and self._cells.num_idle > self._max_idle_cells:
            self._cells.evict()

    def _keep(self, sequence: Sequence) -> None:
        length = sequence.num_computed
        is_in_cache = not self._reuse.whole and self._cells.join(sequence, length)
        tiers = self._tiers if not is_in_cache else [self._disk] if self._disk else []
        self._save(sequence.slot, sequence.tokens[:length], sequence.namespace, tiers)

    def _save_leaf(self, leaf: Node[Sequence]) -> None:
        if leaf.holder is not None and self._tiers:
            self._save(leaf.holder, leaf.prefix(), leaf.namespace, self._tiers)

    def _save(self, id: int, tokens: "Tokens[int]", namespace: str, tiers: Listed[StateTier]) -> None:
        if not tiers or len(tokens) < MIN_SAVED_TOKENS:
            return
        num_bytes = self._memory.state_bytes(id)
        takers = [tier for tier in tiers if tier.wants(tokens, namespace, num_bytes)]
        if takers and (state := self._memory.save_state(id)):
            for tier in takers:
                tier.offer(tokens, namespace, state)


def _peers(sequence: Sequence, node: Node[Sequence], length: int, limit: int) -> list[tuple[Sequence, int]]:
    """The running sequences that go on from where the tree's knowledge ends, and how many tokens they have in common
    with `sequence`: the tree learns what they compute only when somebody needs it."""
    if length < node.end:
        return []
    tokens = sequence.tokens
    return [
        (peer, length + common_length(tokens, length, peer.tokens, length, limit - length)) for peer in node.runners
    ]
