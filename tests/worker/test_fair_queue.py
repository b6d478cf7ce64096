"""Who is next among requests that have many things to do."""

from typing import NamedTuple

import pytest

from shimmy.worker.fair_queue import FairQueue


class Asked(NamedTuple):
    name: str
    tenant: str = ""
    priority: int = 0


def order(queue: FairQueue[Asked], num_turns: int) -> str:
    """Whose turns the next ones are; everybody comes back for more."""
    names = ""
    for _ in range(num_turns):
        item, turn = queue.take()
        queue.add(item, turn)
        names += item.name
    return names


def queue_of(*items: Asked) -> FairQueue[Asked]:
    queue: FairQueue[Asked] = FairQueue()
    for item in items:
        queue.add(item)
    return queue


def test_equals_take_turns() -> None:
    assert order(queue_of(Asked("a"), Asked("b"), Asked("c")), 6) == "abcabc"


def test_a_newcomer_does_not_wait_for_all_that_came_before() -> None:
    queue = queue_of(Asked("a"))
    assert order(queue, 3) == "aaa"
    queue.add(Asked("b"))
    assert order(queue, 5) == "ababa"


def test_the_lowest_priority_is_first() -> None:
    assert order(queue_of(Asked("a", priority=1), Asked("b", priority=0)), 3) == "bbb"


def test_tenants_take_turns_whatever_their_priorities() -> None:
    items = [Asked("a", "x", 5), Asked("b", "y"), Asked("c", "y"), Asked("d", "y")]
    assert order(queue_of(*items), 6) == "abacad"


def test_one_that_leaves() -> None:
    a, b, c = Asked("a", "x"), Asked("b", "y"), Asked("c", "y")
    queue = queue_of(a, b, c)
    queue.remove(b)
    queue.remove(b)
    assert order(queue, 2) == "ac"
    queue.remove(a)
    queue.remove(c)
    assert not queue
    with pytest.raises(IndexError):
        queue.take()


def test_newcomers_do_not_hold_up_who_has_had_many_turns() -> None:
    queue = queue_of(Asked("a"))
    assert order(queue, 10) == "a" * 10
    names = ""
    for number in range(20):
        queue.add(Asked(str(number % 10)))
        names += queue.take()[0].name
    assert "a" in names[:3]
