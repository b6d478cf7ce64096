"""Which of several workers a request goes to, with workers that are only as busy as they are said to be."""

import asyncio
from typing import Any, cast

import pytest

from shimmy.core import ipc
from shimmy.core.request import Chat, File, Generation, Infill, Message, Prompt, Text, Tokens
from shimmy.pool import affinity
from shimmy.pool.affinity import Affinity
from shimmy.pool.supervisor import Supervisor
from shimmy.server.inference import Inference
from tests.fakes.pool import collect, fake_inference, generation, run, text_of

NUM_SEQUENCES = 4


class Worker:
    def __init__(self, num_running: int = 0) -> None:
        self.num_running = num_running
        self.options = ipc.EngineOptions(num_sequences=NUM_SEQUENCES)


def chosen(known: Affinity, prompt: Prompt, workers: list[Worker], **fields: Any) -> Worker:
    request = Generation(id="r", model="m", prompt=prompt, **fields)
    return cast(Worker, known.choose(request, cast(list[Supervisor], workers)))


def turns(*contents: str, system: str = "You are kind.") -> Chat:
    """The user's and the assistant's in turn."""
    roles = ("user", "assistant")
    said = [Message(roles[at % 2], content) for at, content in enumerate(contents)]
    return Chat([Message("system", system), *said])


def test_a_conversation_goes_on_where_it_began() -> None:
    known, one, two = Affinity(), Worker(), Worker()
    assert chosen(known, turns("a"), [one, two]) is one
    assert chosen(known, turns("b"), [two, one]) is two
    for workers in ([one, two], [two, one]):
        assert chosen(known, turns("a", "yes", "more"), workers) is one
        assert chosen(known, turns("b", "yes", "more"), workers) is two
        assert chosen(known, turns("a", "yes", "more", "no", "why"), workers) is one


@pytest.mark.parametrize(("num_running", "others", "stays"), [(2, 0, True), (3, 0, False), (4, 3, False), (4, 4, True)])
def test_a_conversation_goes_elsewhere_when_its_worker_is_much_busier_or_it_had_to_wait_there(
    num_running: int, others: int, stays: bool
) -> None:
    known, one, two = Affinity(), Worker(), Worker()
    assert chosen(known, turns("a"), [one, two]) is one
    one.num_running, two.num_running = num_running, others
    went_to = chosen(known, turns("a", "yes", "more"), [two, one])
    assert went_to is (one if stays else two)
    # And then stays there.
    one.num_running = two.num_running = 0
    assert chosen(known, turns("a", "yes", "more", "no", "why"), [one, two]) is went_to
    assert chosen(known, turns("a", "yes", "more", "no", "why"), [two, one]) is went_to


def test_prompts_that_only_begin_alike_are_spread_evenly() -> None:
    known, workers = Affinity(), [Worker(), Worker()]
    for text in "abcdefgh":
        chosen(known, Text(300 * "few shots " + text), workers).num_running += 1
        chosen(known, turns("the same question"), workers).num_running += 1
    assert [worker.num_running for worker in workers] == [8, 8]


@pytest.mark.parametrize(
    ("first", "alike", "other"),
    [
        (Text("x" * 300), Text("x" * 256 + "y"), Text("y" * 300)),
        (Tokens([1] * 70), Tokens([1] * 64 + [2]), Tokens([2] * 70)),
        (Infill("x" * 300, "end"), Infill("x" * 256, "", extra=[File("a", "b")]), Infill("y", "end")),
        (turns("a"), turns("a", "yes", "more"), turns("a", system="Be rude.")),
        (Chat([Message("system", "a")]), Chat([Message("system", "a")]), Chat([Message("user", "a")])),
        (Chat([]), Chat([]), Chat([Message("user", "")])),
    ],
    ids=["text", "tokens", "infill", "chat", "no-user", "empty"],
)
def test_what_begins_alike_goes_to_the_same_and_what_does_not_to_the_first(
    first: Prompt, alike: Prompt, other: Prompt
) -> None:
    known, one, two = Affinity(), Worker(), Worker()
    assert chosen(known, first, [one, two]) is one
    assert chosen(known, alike, [two, one]) is one
    assert chosen(known, other, [two, one]) is two


def test_tenants_have_nothing_in_common() -> None:
    known, one, two = Affinity(), Worker(), Worker()
    assert chosen(known, turns("a"), [one, two], tenant="A") is one
    assert chosen(known, turns("a"), [two, one], tenant="B") is two
    assert chosen(known, turns("a"), [two, one], tenant="A") is one


def test_a_worker_that_is_not_there_any_more_is_not_waited_for() -> None:
    known, one, two = Affinity(), Worker(), Worker()
    assert chosen(known, turns("a"), [one, two]) is one
    assert chosen(known, turns("a", "yes", "more"), [two]) is two


def test_what_was_used_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affinity, "MAX_REMEMBERED", 2)
    known, one, two = Affinity(), Worker(), Worker()
    for text in "aba":
        assert chosen(known, turns(text), [one, two]) is one
    assert chosen(known, turns("c"), [two, one]) is two
    assert len(known._worker_of) == 2
    assert chosen(known, turns("a"), [two, one]) is one
    assert chosen(known, turns("b"), [two, one]) is two


def test_turns_of_conversations_go_to_the_process_that_had_the_ones_before() -> None:
    async def pid_of(inference: Inference, name: str, num_turns: int) -> str:
        said = [each for turn in range(num_turns) for each in (Message("user", name), Message("assistant", f"{turn}"))]
        request = generation("!pid")
        chat = Chat([*said, Message("user", "!pid")])
        asked = Generation(id=request.id, model=request.model, prompt=chat)
        return text_of(await collect(inference, asked))

    async def test() -> None:
        async with fake_inference(num_workers=2) as inference:
            await inference.models.load("echo")
            busy = inference.generate(generation("!stall 1"))
            await anext(busy)
            first = await pid_of(inference, "a", 1)
            await busy.aclose()
            later = inference.generate(generation("!stall 1", tenant="t"))
            await anext(later)
            second = await pid_of(inference, "b", 1)
            assert first != second
            await later.aclose()
            for num_turns in range(2, 5):
                asked = [pid_of(inference, "a", num_turns), pid_of(inference, "b", num_turns)]
                assert await asyncio.gather(*asked) == [first, second]

    run(test())
