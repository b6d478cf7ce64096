"""A radix tree over token sequences: which prefixes the KV cache holds, who can give them, who uses them.

Pure data: it knows token ids and opaque holders, and never touches llama. Every token of every node stands for one cell
of the cache, so that its counts are exact as long as its owner (prefix_cache.py) keeps cells and nodes in step.
"""

import array
from collections.abc import Iterator
from itertools import chain
from typing import Generic, TypeVar

R = TypeVar("R")

Tokens = array.array  # of "i"

_BLOCK_TOKENS = 32
_MAX_ROOTS = 64


class Inconsistent(Exception):
    """The tree contradicts itself; nothing it says can be trusted."""


def common_length(one: "Tokens[int]", at: int, other: "Tokens[int]", other_at: int, limit: int) -> int:
    """How many tokens `one` from `at` on and `other` from `other_at` on begin with alike, at most `limit`."""
    limit = min(limit, len(one) - at, len(other) - other_at)
    equal, step = 0, _BLOCK_TOKENS
    # Slices of arrays are compared in C: widening steps find where they differ, narrowing ones the block.
    while equal < limit:
        size = min(step, limit - equal)
        start, other_start = at + equal, other_at + equal
        block, other_block = one[start : start + size], other[other_start : other_start + size]
        if block == other_block:
            equal += size
            step *= 2
        elif size > _BLOCK_TOKENS:
            limit, step = equal + size, size // 2
        else:
            return equal + next(n for n, (a, b) in enumerate(zip(block, other_block, strict=True)) if a != b)
    return max(equal, 0)


class Node(Generic[R]):
    """A run of tokens that ends `end` tokens from the root.

    `holder` is a sequence id that keeps the cells from the root to the end of this node and nothing else, `runners` are
    the running sequences whose path ends here; `num_runners` counts those below as well.
    """

    __slots__ = ("namespace", "tokens", "end", "parent", "children", "holder", "runners", "num_runners", "used_at")

    def __init__(self, namespace: str, tokens: "Tokens[int]", parent: "Node[R] | None") -> None:
        self.namespace = namespace
        self.tokens = tokens
        self.parent = parent
        self.end: int = len(tokens) + (parent.end if parent else 0)
        self.children: dict[int, Node[R]] = {}
        self.holder: int | None = None
        self.runners: list[R] = []
        self.num_runners = 0
        self.used_at = 0

    @property
    def start(self) -> int:
        return self.end - len(self.tokens)

    def prefix(self) -> "Tokens[int]":
        """All tokens from the root to the end of this node."""
        tokens = Tokens("i")
        for node in reversed(list(self.path())):
            tokens += node.tokens
        return tokens

    def path(self) -> "Iterator[Node[R]]":
        """This node and those above it, without the root, which has no tokens."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def subtree(self) -> "Iterator[Node[R]]":
        """This node and all below it."""
        pending = [self]
        while pending:
            node = pending.pop()
            yield node
            pending += node.children.values()


class PrefixTree(Generic[R]):
    """One root per namespace: what one has stored, another never finds. Counts are in tokens, hence in cells."""

    def __init__(self) -> None:
        self._roots: dict[str, Node[R]] = {}
        self._clock = 0
        self.num_tokens = 0
        self.num_locked = 0

    def root(self, namespace: str) -> Node[R]:
        """What is empty and not in use may be forgotten with the next namespace."""
        if namespace not in self._roots:
            if len(self._roots) >= _MAX_ROOTS:
                # Requests can bring keys of their own, each of which makes a namespace, without end.
                self._roots = {name: root for name, root in self._roots.items() if root.children or root.runners}
            self._roots[namespace] = Node(namespace, Tokens("i"), None)
        return self._roots[namespace]

    def nodes(self) -> Iterator[Node[R]]:
        """All but the roots."""
        below = (root.subtree() for root in self._roots.values())
        return (node for node in chain.from_iterable(below) if node.parent is not None)

    def match(self, namespace: str, tokens: "Tokens[int]", limit: int) -> tuple[Node[R], int]:
        """How many of the first `limit` tokens the tree knows, and the node in which that prefix ends."""
        node, length = self.root(namespace), 0
        while length < limit and (child := node.children.get(tokens[length])):
            node = child
            length += common_length(tokens, length, child.tokens, 0, limit - length)
            if length < child.end:
                break
        return node, length

    def split(self, node: Node[R], length: int) -> Node[R]:
        """The node that ends after `length` tokens on the way to `node`, made of it if need be."""
        if length == node.end:
            return node
        parent, cut = node.parent, length - node.start
        if parent is None or not 0 < cut < len(node.tokens):
            raise ValueError(f"a node from {node.start} to {node.end} cannot be split at {length}")
        upper = Node(node.namespace, node.tokens[:cut], parent)
        node.tokens, node.parent = node.tokens[cut:], upper
        parent.children[upper.tokens[0]] = upper
        upper.children[node.tokens[0]] = node
        upper.num_runners, upper.used_at = node.num_runners, node.used_at
        return upper

    def grow(self, node: Node[R], tokens: "Tokens[int]") -> Node[R]:
        """A new child for what follows `node`."""
        if not tokens or tokens[0] in node.children:
            raise ValueError("a child must begin with a token that no other child begins with")
        child = node.children[tokens[0]] = Node(node.namespace, tokens, node)
        self.num_tokens += len(tokens)
        return child

    def remove(self, leaf: Node[R]) -> Node[R]:
        """Takes a leaf that nobody uses out of the tree; returns its parent."""
        parent = leaf.parent
        if parent is None or leaf.children or leaf.num_runners:
            raise ValueError("only a leaf that is not in use can be removed")
        del parent.children[leaf.tokens[0]]
        self.num_tokens -= len(leaf.tokens)
        leaf.parent = None
        return parent

    def enter(self, node: Node[R], runner: R) -> None:
        """`runner` holds the cells down to `node` from now on, so that removing them would free nothing."""
        node.runners.append(runner)
        for each in node.path():
            each.num_runners += 1
            if each.num_runners == 1:
                self.num_locked += len(each.tokens)

    def leave(self, node: Node[R], runner: R) -> None:
        node.runners.remove(runner)
        for each in node.path():
            each.num_runners -= 1
            if not each.num_runners:
                self.num_locked -= len(each.tokens)

    def touch(self, node: Node[R]) -> None:
        """`node` and all above it were used just now."""
        self._clock += 1
        for each in node.path():
            each.used_at = self._clock

    def num_unlocked(self, node: Node[R], length: int) -> int:
        """Of the first `length` tokens on the way to `node`, those that no running sequence uses."""
        return sum(min(each.end, length) - each.start for each in node.path() if not each.num_runners)

    def oldest_leaf(self) -> Node[R] | None:
        """The least recently used leaf that no running sequence uses."""
        leaves = (node for node in self.nodes() if not node.children and not node.num_runners)
        return min(leaves, key=lambda node: node.used_at, default=None)

    def check(self) -> None:
        """Raises `Inconsistent` if the tree is not what it should be."""
        num_tokens = num_locked = 0
        for node in self.nodes():
            num_tokens += len(node.tokens)
            num_locked += len(node.tokens) if node.num_runners else 0
            _check_node(node)
        if (num_tokens, num_locked) != (self.num_tokens, self.num_locked):
            counted = f"{self.num_tokens} tokens, {self.num_locked} of them locked"
            raise Inconsistent(f"{counted} are counted, but there are {num_tokens} and {num_locked}")


def _check_node(node: Node[R]) -> None:
    parent = node.parent
    if parent is None or not node.tokens or parent.children.get(node.tokens[0]) is not node:
        raise Inconsistent(f"a node that ends at {node.end} is not its parent's child")
    if node.end != parent.end + len(node.tokens):
        raise Inconsistent(f"a node of {len(node.tokens)} tokens below {parent.end} ends at {node.end}")
    if node.num_runners != len(node.runners) + sum(child.num_runners for child in node.children.values()):
        raise Inconsistent(f"a node that ends at {node.end} miscounts the sequences that use it")
    if not node.children and not node.runners and node.holder is None:
        raise Inconsistent(f"nobody holds the cells of a leaf that ends at {node.end}")
