"""What does not answer holds nobody up for longer than that."""

import threading
from collections.abc import Iterator

import pytest

from shimmy.models.asking import Asking, NoAnswerError

LIMIT_SECONDS = 90.0


@pytest.fixture
def held_up() -> Iterator[threading.Event]:
    """Until it is set."""
    event = threading.Event()
    yield event
    event.set()


def test_an_answer_comes_back() -> None:
    asking = Asking(LIMIT_SECONDS)
    assert [asking.ask("a", lambda: 1), asking.ask("a", lambda: 2)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        asking.ask("a", fails)
    assert asking.ask("a", lambda: 3) == 3


def fails() -> int:
    raise OSError("gone")


def test_a_question_is_open_until_it_is_answered_and_then_that_is_the_next_answer(held_up: threading.Event) -> None:
    asking = Asking(0.01)
    num_asked, is_asked = 0, threading.Event()

    def answers_late() -> str:
        nonlocal num_asked
        num_asked += 1
        is_asked.set()
        held_up.wait()
        return "late"

    for _ in range(3):
        with pytest.raises(NoAnswerError):
            asking.ask("a", answers_late)
    assert is_asked.wait(LIMIT_SECONDS) and num_asked == 1
    # Of which it is known by then that it takes too long.
    assert asking.vain_seconds == 0.01
    held_up.set()
    for thread in threading.enumerate():
        if thread.name == "ask":
            thread.join(LIMIT_SECONDS)
    assert asking.ask("a", lambda: "another") == "late"


def test_a_late_answer_is_of_no_use_to_who_asks_anew(held_up: threading.Event) -> None:
    asking = Asking(0.01)
    with pytest.raises(NoAnswerError):
        asking.ask("a", held_up.wait)
    with pytest.raises(NoAnswerError):
        asking.ask("a", lambda: "another", anew=True)
    held_up.set()
    for thread in threading.enumerate():
        if thread.name == "ask":
            thread.join(LIMIT_SECONDS)
    asking.seconds = LIMIT_SECONDS
    assert asking.ask("a", lambda: "another", anew=True) == "another"
