"""A constraint begins when the thoughts have ended, or when a call begins, and not before."""

import pytest

from shimmy.core.request import Constraint
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.gate import Gate, Terms
from tests.worker.constraints.byte_model import ByteModel

COMPILER = Compiler(ByteModel())
THINK, CALL = ord("T"), ord("C")


def gate(regex: str, **terms: object) -> Gate:
    guide = COMPILER.compile(Constraint("regex", regex, "field")).guide()
    return Gate(guide, Terms(**terms))  # type: ignore[arg-type]


def take(place: Gate, text: str) -> bool:
    return all(place.take(ord(letter)) for letter in text)


def test_thoughts_are_free_and_the_answer_is_not() -> None:
    place = gate("ab", is_thinking=True)
    assert take(place, "anything") and not place.is_complete
    assert not place.is_met("anything", is_cut=False)
    place.begin()
    assert not place.take(ord("z")) and not place.take(ord("b"))
    assert take(place, "ab") and place.is_complete and place.is_met("ab", is_cut=False)


@pytest.mark.parametrize("thinks", [True, False])
def test_the_first_token_says_whether_there_are_thoughts(thinks: bool) -> None:
    place = gate("ab", openers=frozenset([THINK]))
    if thinks:
        assert take(place, "Txyz")
        place.begin()
    assert not place.take(ord("x"))
    assert take(place, "ab") and place.is_complete


def test_a_first_token_that_is_refused_leaves_the_answer_held() -> None:
    place = gate("ab", openers=frozenset([THINK]))
    assert not place.take(ord("x")) and not place.take(THINK)
    assert place.mask()[ord("a")]
    assert take(place, "ab") and place.is_complete


def test_calls_are_held_from_the_token_that_begins_one() -> None:
    place = gate("Cab", callers=frozenset([CALL]))
    assert take(place, "some text") and place.is_met("some text", is_cut=True)
    assert place.take(CALL) and not place.take(ord("b"))
    assert take(place, "ab") and place.is_complete


def test_a_call_that_the_constraint_does_not_know_stays_free() -> None:
    place = gate("xC", callers=frozenset([CALL]))
    assert take(place, "C anything")


ARGUMENTS = {"callers": None, "held": frozenset(["f"])}


def test_arguments_are_held_from_where_they_begin_to_where_they_end() -> None:
    place = gate("f\nab(?s:.*)", **ARGUMENTS)
    assert take(place, "anything")
    place.hold("f", "")
    assert not place.take(ord("b")) and place.mask()[ord("a")]
    assert take(place, "a") and not place.is_met("", is_cut=True)
    assert take(place, "b, anything") and place.is_met("", is_cut=False) and not place.is_complete
    place.hold("f", "a")
    assert not place.take(ord("a")) and take(place, "bb")


def test_what_has_come_already_cannot_be_held() -> None:
    place = gate("f\nab(?s:.*)", **ARGUMENTS)
    for name, text in (("f", "x"), ("f", "ab and more"), ("g", ""), ("f\na", "")):
        place.hold(name, text)
        assert take(place, "anything") and place.is_met("", is_cut=False)


@pytest.mark.parametrize("terms", [ARGUMENTS, {"callers": frozenset([CALL])}])
def test_where_calls_need_not_come_an_answer_of_thoughts_alone_is_met(terms: dict[str, object]) -> None:
    for begin in ({"is_thinking": True}, {"openers": frozenset([THINK])}):
        assert gate("ab", **terms, **begin).is_met("", is_cut=False)


def test_a_begin_in_the_answer_changes_nothing() -> None:
    place = gate("ab")
    assert place.take(ord("a"))
    place.begin()
    assert not place.take(ord("a")) and place.take(ord("b"))


def test_calls_are_met_whatever_was_sent_of_them() -> None:
    place = gate("ab", is_calls=True)
    assert take(place, "a") and not place.is_met("", is_cut=True)
    assert take(place, "b") and place.is_met("", is_cut=True)
