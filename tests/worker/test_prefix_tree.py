"""The tree against a set of all prefixes: whatever is done to it, it knows the same and counts right."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.worker.prefix_tree import Inconsistent, Node, PrefixTree, Tokens, common_length

tokens = st.lists(st.integers(0, 1), max_size=150)


@given(tokens, tokens, st.integers(0, 4), st.integers(0, 200))
def test_common_length_is_where_two_begin_to_differ(one: list[int], other: list[int], at: int, limit: int) -> None:
    length = 0
    while length < min(limit, len(one), len(other)) and one[length] == other[length]:
        length += 1
    shifted = Tokens("i", [7] * at + other)
    assert common_length(Tokens("i", one), 0, shifted, at, limit) == length
    assert common_length(shifted, at, Tokens("i", one), 0, limit) == length


class Model:
    """A tree, and beside it all prefixes that it should know."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.tree: PrefixTree[str] = PrefixTree()
        self.known: set[tuple[str, tuple[int, ...]]] = set()
        self.running: dict[str, Node[str]] = {}
        self.order: list[str] = []

    def step(self) -> None:
        self.dice.choice([self.insert, self.insert, self.enter, self.leave, self.remove])()
        self.tree.check()
        assert self.tree.num_tokens == len(self.known)
        assert self.tree.num_locked == len(self.locked())
        for _ in range(3):
            namespace, path = self.draw()
            limit = self.dice.randrange(len(path) + 1)
            node, length = self.tree.match(namespace, path, limit)
            assert length == self.longest(namespace, path, limit)
            assert node.start < length <= node.end or length == 0 == node.end
            assert node.prefix()[:length] == path[:length]

    def draw(self) -> "tuple[str, Tokens[int]]":
        path = [self.dice.randrange(2) for _ in range(self.dice.randrange(12))]
        return self.dice.choice("xy"), Tokens("i", [0] * self.dice.randrange(5) + path)

    def longest(self, namespace: str, path: "Tokens[int]", limit: int) -> int:
        return max((n for n in range(limit + 1) if not n or (namespace, tuple(path[:n])) in self.known), default=0)

    def locked(self) -> set[tuple[str, tuple[int, ...]]]:
        paths = [(node.namespace, node.prefix()) for node in self.running.values()]
        return {(namespace, tuple(path[: n + 1])) for namespace, path in paths for n in range(len(path))}

    def insert(self) -> Node[str]:
        namespace, path = self.draw()
        node, length = self.tree.match(namespace, path, len(path))
        node = self.tree.split(node, length) if length else node
        if length < len(path):
            node = self.tree.grow(node, path[length:])
            node.holder = 1
        self.known |= {(namespace, tuple(path[: n + 1])) for n in range(len(path))}
        self.tree.touch(node)
        return node

    def enter(self) -> None:
        name, node = str(len(self.order)), self.insert()
        before = self.tree.num_locked
        expected = self.tree.num_unlocked(node, node.end)
        self.order.append(name)
        self.running[name] = node
        self.tree.enter(node, name)
        assert self.tree.num_locked - before == expected

    def leave(self) -> None:
        if self.running:
            name = self.dice.choice(list(self.running))
            self.tree.leave(self.running.pop(name), name)

    def remove(self) -> None:
        leaf = self.tree.oldest_leaf()
        idle = [node for node in self.tree.nodes() if not node.children and not node.num_runners]
        assert leaf is None if not idle else leaf is min(idle, key=lambda node: node.used_at)
        if leaf is not None:
            path = leaf.prefix()
            self.known -= {(leaf.namespace, tuple(path[:n])) for n in range(leaf.start + 1, leaf.end + 1)}
            parent = self.tree.remove(leaf)
            parent.holder = 1


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_whatever_is_done_the_tree_knows_what_it_should(seed: int, num_steps: int) -> None:
    model = Model(seed)
    for _ in range(num_steps):
        model.step()


def path_of(tree: PrefixTree[str], *tokens: int) -> Node[str]:
    node, length = tree.match("", Tokens("i", tokens), len(tokens))
    node = tree.grow(tree.split(node, length) if length else node, Tokens("i", tokens[length:]))
    node.holder = 1
    return node


def test_what_was_shared_is_evicted_after_what_was_not() -> None:
    tree: PrefixTree[str] = PrefixTree()
    one = path_of(tree, 1, 2, 3)
    other = path_of(tree, 1, 2, 4)
    for leaf in (one, other):
        tree.touch(leaf)
        assert leaf.parent is not None and leaf.parent.end == 2
    assert tree.oldest_leaf() is one
    shared = tree.remove(one)
    assert tree.oldest_leaf() is other
    tree.remove(other)
    assert tree.oldest_leaf() is shared and tree.num_tokens == 2


def test_what_is_in_use_is_not_evicted() -> None:
    tree: PrefixTree[str] = PrefixTree()
    leaf = path_of(tree, 1, 2, 3)
    upper = tree.split(leaf, 2)
    tree.enter(upper, "a")
    assert tree.oldest_leaf() is leaf and tree.num_locked == 2
    tree.remove(leaf)
    assert tree.oldest_leaf() is None


@pytest.mark.parametrize(
    "misuse",
    [
        lambda tree, leaf: tree.split(leaf, 0),
        lambda tree, leaf: tree.split(leaf, 4),
        lambda tree, leaf: tree.split(tree.root(""), 1),
        lambda tree, leaf: tree.grow(tree.root(""), Tokens("i", [1, 9])),
        lambda tree, leaf: tree.grow(leaf, Tokens("i")),
        lambda tree, leaf: tree.remove(tree.root("")),
        lambda tree, leaf: tree.remove(leaf.parent),
        lambda tree, leaf: (tree.enter(leaf, "a"), tree.remove(leaf)),
    ],
)
def test_misuse_is_refused(misuse: Callable[[PrefixTree[str], Node[str]], object]) -> None:
    tree: PrefixTree[str] = PrefixTree()
    path_of(tree, 1, 2, 4)
    leaf = path_of(tree, 1, 2, 3)
    with pytest.raises(ValueError):
        misuse(tree, leaf)


def miscount_tokens(tree: PrefixTree[str], leaf: Node[str]) -> None:
    tree.num_tokens += 1


def miscount_locked(tree: PrefixTree[str], leaf: Node[str]) -> None:
    tree.num_locked += 1


def misplace(tree: PrefixTree[str], leaf: Node[str]) -> None:
    leaf.parent = tree.root("")


def stretch(tree: PrefixTree[str], leaf: Node[str]) -> None:
    leaf.end += 1


def miscount_runners(tree: PrefixTree[str], leaf: Node[str]) -> None:
    leaf.runners.append("a")


def abandon(tree: PrefixTree[str], leaf: Node[str]) -> None:
    leaf.holder = None


@pytest.mark.parametrize("damage", [miscount_tokens, miscount_locked, misplace, stretch, miscount_runners, abandon])
def test_damage_is_found(damage: Callable[[PrefixTree[str], Node[str]], None]) -> None:
    tree: PrefixTree[str] = PrefixTree()
    path_of(tree, 1, 2, 4)
    leaf = path_of(tree, 1, 2, 3)
    tree.check()
    damage(tree, leaf)
    with pytest.raises(Inconsistent):
        tree.check()


def test_namespaces_without_anything_in_them_are_forgotten() -> None:
    tree: PrefixTree[str] = PrefixTree()
    tokens = Tokens("i", [1, 2, 3])
    tree.grow(tree.root("kept"), tokens)
    used = tree.root("used")
    tree.enter(used, "runner")
    for number in range(1000):
        tree.match(str(number), tokens, 3)
    assert len(tree._roots) <= 100
    assert tree.match("kept", tokens, 3)[1] == 3 and tree.root("used") is used
