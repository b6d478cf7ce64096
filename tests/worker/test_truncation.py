"""Prompts that are too long lose what their request said, and no more."""

from collections.abc import Sequence

import pytest

from shimmy.core.errors import ContextOverflow, Unsupported
from shimmy.core.events import Dropped, DroppedPart
from shimmy.core.request import Chat, Generation, Infill, Message, Prompt, Text, Tokens, ToolCall, Truncation
from shimmy.worker.sequence import Request
from shimmy.worker.truncation import RESERVED_TOKENS, cut, droppable, room
from tests.worker.test_prompt import prompter, text_of

CALL = [ToolCall("c", "f", "{}")]


def prepared(
    prompt: Prompt, what: DroppedPart, num_tokens: int = -1, *, length: int = 20, max_tokens: int = 5
) -> Request:
    generation = Generation(
        id="1", model="m", prompt=prompt, max_tokens=max_tokens, truncation=Truncation(what, num_tokens)
    )
    return prompter(length).prepare(generation)


def chat(*turns: str) -> Chat:
    """ "s:..." is what the system says, and so on."""
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return Chat([Message(roles[turn[0]], turn[2:]) for turn in turns])


def test_a_side_is_cut_to_what_fits_and_the_first_token_stays() -> None:
    request = prepared(Text("0123456789abcdefghij"), "first_tokens")
    assert text_of(request.prompt) == "^6789abcdefghij"
    assert request.dropped == Dropped("first_tokens", 6)
    request = prepared(Text("0123456789abcdefghij"), "last_tokens", 4)
    assert text_of(request.prompt) == "^012"
    assert request.dropped == Dropped("last_tokens", 17)


def test_token_ids_are_cut_as_they_are() -> None:
    assert list(prepared(Tokens([1, 2, 3, 4]), "first_tokens", 2).prompt) == [3, 4]


def test_what_fits_loses_nothing() -> None:
    assert prepared(Text("0123"), "first_tokens").dropped is None
    assert prepared(chat("s:S", "u:1"), "oldest_turns").dropped is None


def test_more_than_the_context_can_hold_is_an_error_all_the_same() -> None:
    with pytest.raises(ContextOverflow):
        prepared(Text("0" * 50), "first_tokens", 40)


def test_the_answer_has_its_room_but_never_more_than_half() -> None:
    assert room(1000, 100) == 900
    assert room(1000, None) == 1000 - RESERVED_TOKENS
    assert room(1000, 4000) == 500


@pytest.mark.parametrize("keeps_end", [True, False])
def test_a_cut_leaves_one_token_at_least(keeps_end: bool) -> None:
    assert len(cut([1, 2, 3], 0, True, keeps_end=keeps_end)) == 1


def test_the_oldest_turns_go_but_neither_the_system_nor_the_last_user() -> None:
    request = prepared(chat("s:SYS", "u:aaaa", "a:bbbb", "u:cc", "a:dd", "u:last"), "oldest_turns")
    assert text_of(request.prompt) == "^SYSccddlast"
    assert request.dropped == Dropped("oldest_turns", 8, 2)


def test_a_last_turn_that_is_too_long_is_an_error() -> None:
    with pytest.raises(ContextOverflow) as caught:
        prepared(chat("s:SYS", "u:aaaa", "u:" + "x" * 30), "oldest_turns")
    assert caught.value.param == "messages"


def test_only_chats_have_turns_and_a_gap_is_not_cut() -> None:
    with pytest.raises(Unsupported) as caught:
        prepared(Text("0" * 50), "oldest_turns")
    assert caught.value.param == "truncation"
    with pytest.raises(Unsupported):
        prepared(Infill("0" * 9, "1" * 9), "first_tokens", 4)


@pytest.mark.parametrize(
    ("messages", "units"),
    [
        ([], []),
        ([Message("system", ""), Message("user", "")], []),
        ([Message("assistant", ""), Message("user", ""), Message("user", "")], [[0], [1]]),
        (
            [
                Message("user", ""),
                Message("assistant", "", tool_calls=CALL),
                Message("tool", ""),
                Message("assistant", ""),
                Message("system", ""),
                Message("user", ""),
            ],
            [[0, 1, 2, 3]],
        ),
        (
            [
                Message("user", ""),
                Message("assistant", "", tool_calls=CALL),
                Message("tool", ""),
                Message("tool", ""),
                Message("assistant", "", tool_calls=CALL),
                Message("tool", ""),
            ],
            [[1, 2, 3]],
        ),
    ],
)
def test_what_belongs_together_goes_together(messages: Sequence[Message], units: list[list[int]]) -> None:
    assert droppable(list(messages)) == units
