import asyncio
from collections.abc import Awaitable, Callable

import pytest

from shimmy.core.errors import RequestCrashes, WorkerLost
from shimmy.core.request import Embedding, Text
from shimmy.pool import suspects as suspects_module
from shimmy.pool.suspects import KEPT_SECONDS, Suspects
from shimmy.server.inference import Inference
from tests.fakes.clock import FakeTime
from tests.fakes.pool import answer, collect, fake_inference, generation, run

CRASH = "!crash SIGSEGV 0"


def test_a_request_that_crashed_a_worker_twice_is_refused_and_others_are_not() -> None:
    async def test() -> None:
        time = FakeTime()
        async with fake_inference(clock=time.clock, sleep=time.sleep) as inference:
            # It is tried a second time without the client's help.
            with pytest.raises(WorkerLost):
                await answer(inference, CRASH)
            pid = await answer(inference, "!pid")
            with pytest.raises(RequestCrashes, match="2 times"):
                await answer(inference, CRASH, tenant="other", priority=3)
            assert await answer(inference, "!pid") == pid
            with pytest.raises(WorkerLost):
                await answer(inference, "!crash SIGSEGV 1", max_tokens=5)

    run(test())


def test_it_may_run_again_later() -> None:
    async def test() -> None:
        time = FakeTime()
        async with fake_inference(clock=time.clock, sleep=time.sleep) as inference:
            for _ in range(2):
                with pytest.raises(WorkerLost):
                    await answer(inference, CRASH)
                time.now += KEPT_SECONDS + 1

    run(test())


def test_who_was_there_by_chance_is_cleared() -> None:
    """Eight requests run when one of them crashes the worker, and it is repeated until it is refused."""

    async def insist(inference: Inference) -> None:
        while True:
            try:
                await answer(inference, CRASH)
            except WorkerLost:
                continue
            except RequestCrashes:
                return

    async def stay(inference: Inference, number: int) -> str:
        return await answer(inference, f"one two three {number}")

    async def test() -> None:
        time = FakeTime()
        async with fake_inference(clock=time.clock, sleep=time.sleep) as inference:
            answers, _ = await asyncio.gather(
                asyncio.gather(*(stay(inference, number) for number in range(8))), insist(inference)
            )
            assert answers == [f"one two three {number}" for number in range(8)]
            for number in range(8):
                assert await stay(inference, number) == answers[number]

    run(test())


def test_the_same_asked_by_many_at_once_has_seen_one_crash() -> None:
    async def test() -> None:
        suspects = Suspects(FakeTime().clock)
        for _ in range(8):
            suspects.note_crash("m", generation("same"), 1)
        with pytest.raises(ZeroDivisionError):
            async with suspects.trial("m", generation("same")):
                raise ZeroDivisionError("it was given to a worker, and came to no end that would clear it")
        suspects.note_crash("m", generation("same"), 2)
        with pytest.raises(RequestCrashes):
            async with suspects.trial("m", generation("same")):
                pass

    run(test())


@pytest.mark.parametrize("kind", ["embed", "ask"])
def test_what_is_no_generation_can_be_to_blame_as_well(kind: str) -> None:
    async def embed(inference: Inference) -> None:
        batches = inference.embed(Embedding(id="e", model="echo", inputs=["!crash SIGSEGV"]))
        async for _ in batches:
            pass

    async def ask(inference: Inference) -> None:
        await inference.count_tokens("echo", Text("!crash"))

    acts: dict[str, Callable[[Inference], Awaitable[None]]] = {"embed": embed, "ask": ask}

    async def test() -> None:
        time = FakeTime()
        async with fake_inference(clock=time.clock, sleep=time.sleep) as inference:
            with pytest.raises(WorkerLost):
                await acts[kind](inference)
            with pytest.raises(RequestCrashes):
                await acts[kind](inference)

    run(test())


def test_a_worker_that_was_unloaded_is_no_crash() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            stream = inference.generate(generation("!stall 1", id="same"))
            await anext(stream)
            await inference.close()
            assert not inference._suspects._crashes
            await stream.aclose()

    run(test())


def test_no_more_are_kept_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects_module, "MAX_SUSPECTS", 3)

    async def admitted(suspects: Suspects, prompt: str) -> bool:
        try:
            async with suspects.trial("m", generation(prompt)):
                return True
        except RequestCrashes:
            return False

    async def test() -> None:
        suspects = Suspects(FakeTime().clock)
        for number in range(5):
            for worker in range(2):
                suspects.note_crash("m", generation(str(number)), worker)
        assert [await admitted(suspects, str(number)) for number in range(5)] == [True, True, False, False, False]

    run(test())


def test_an_answer_that_came_clears_its_request() -> None:
    async def test() -> None:
        suspects = Suspects(FakeTime().clock)
        for worker in range(3):
            suspects.note_crash("m", generation("slow"), worker)
            async with suspects.trial("m", generation("slow")):
                pass
        async with fake_inference() as inference:
            assert await collect(inference, generation("hello"))

    run(test())


def test_a_long_answer_does_not_hold_up_the_others_that_were_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects_module, "ALONE_SECONDS", 0.05)

    async def test() -> None:
        suspects = Suspects(FakeTime().clock)
        over = asyncio.Event()
        began: list[str] = []

        async def ask(prompt: str) -> None:
            suspects.note_crash("m", generation(prompt), 1)
            async with suspects.trial("m", generation(prompt)):
                began.append(prompt)
                await over.wait()

        asking = [asyncio.create_task(ask(prompt)) for prompt in ("one", "two")]
        await asyncio.sleep(0.01)
        assert began == ["one"]
        while began != ["one", "two"]:
            await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*asking)

    run(test())
