import asyncio
import json
import os
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shimmy.core import ipc
from shimmy.core.errors import (
    Busy,
    ContextOverflow,
    DeadlineExceeded,
    Draining,
    ModelFailed,
    ModelInvalid,
    ModelNotFound,
    QueueTimeout,
    RequestCrashes,
    RequestError,
    ShimmyError,
    WorkerLost,
)
from shimmy.core.events import Accepted, Event, Finished, TextDelta, Usage
from shimmy.core.request import Chat, Embedding, Message
from shimmy.models.listing import Change
from shimmy.pool import handle as handle_module
from shimmy.pool import suspects
from shimmy.server import keep_alive
from shimmy.server.inference import Inference
from tests.fakes.clock import FakeTime, leap
from tests.fakes.pool import (
    LIMIT_SECONDS,
    FakeCatalog,
    answer,
    children,
    collect,
    fake_inference,
    fake_model,
    generation,
    run,
    scripted_model,
    text_of,
)

Batches = AsyncGenerator[list[Event], None]


@asynccontextmanager
async def running(inference: Inference, prompt: str = "!stall 1", **fields: Any) -> AsyncIterator[Batches]:
    """A request that has begun to answer; closed at the end."""
    async with aclosing(inference.generate(generation(prompt, **fields))) as batches:
        async for batch in batches:
            if isinstance(batch[-1], TextDelta):
                break
        yield batches


async def rest(batches: Batches) -> list[Event]:
    return [event async for batch in batches for event in batch]


async def until_log(inference: Inference, entry: str) -> None:
    """Until the worker has seen an Abort, Pause or Resume, written as "abort ID"."""
    while entry not in await answer(inference, "!log"):
        await asyncio.sleep(0.001)


def test_an_answer_comes_in_batches_from_accepted_to_finished() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            batches = [batch async for batch in inference.generate(generation("a b c", id="r"))]
            assert all(batches)
            events = [event for batch in batches for event in batch]
            assert events[0] == Accepted("r", 3, fingerprint="fp_0123456789_abcdef0123")
            assert text_of(events) == "a b c"
            assert isinstance(events[-1], Finished)
            assert (events[-1].reason, events[-1].usage) == ("stop", Usage(3, 3))
            assert inference.num_active == 0

    run(test())


def test_stop_length_and_choices_are_passed_on() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            stopped = await collect(inference, generation("a b c d", stop=["c d", "zz"]))
            assert text_of(stopped) == "a b "
            assert isinstance(stopped[-1], Finished) and stopped[-1].stop == "c d"
            cut = await collect(inference, generation("a b c d", max_tokens=2, num_choices=2))
            assert text_of(cut, 0) == text_of(cut, 1) == "a b"
            ends = [event for event in cut if isinstance(event, Finished)]
            assert [(end.index, end.reason, end.usage.completion_tokens) for end in ends] == [
                (0, "length", 2),
                (1, "length", 2),
            ]

    run(test())


def test_many_requests_each_get_their_own_answer() -> None:
    async def test() -> None:
        async with fake_inference("a", "b", options=ipc.EngineOptions(num_sequences=4)) as inference:
            prompts = [f"request {i} " + "word " * (i % 7) for i in range(60)]
            answers = await asyncio.gather(
                *(answer(inference, prompt, model="ab"[i % 2]) for i, prompt in enumerate(prompts))
            )
            assert answers == prompts

    run(test())


def test_what_the_worker_refuses_is_raised() -> None:
    async def test() -> None:
        async with fake_inference(options=ipc.EngineOptions(context_length=5)) as inference:
            with pytest.raises(ContextOverflow) as raised:
                await answer(inference, "one two three four five six")
            assert raised.value.details == {"num_prompt_tokens": 6, "context_length": 5}
            with pytest.raises(RequestError, match="bad template"):
                await answer(inference, "!fail invalid_request bad template")
            events: list[Event] = []
            with pytest.raises(RequestError, match="half way"):
                async for batch in inference.generate(generation("!break invalid_request half way")):
                    events += batch
            assert text_of(events) == "one two"
            assert inference.num_active == 0

    run(test())


# Leaving


def test_closing_the_generator_aborts_the_request() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            async with running(inference, id="unwanted"):
                assert inference.num_active == 1
            assert inference.num_active == 0
            await until_log(inference, "abort unwanted")

    run(test())


def test_cancelling_the_task_aborts_the_request() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            async with running(inference, id="unwanted") as batches:
                reading = asyncio.create_task(anext(batches))
                await asyncio.sleep(0)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                assert inference.num_active == 0
                await until_log(inference, "abort unwanted")

    run(test())


def test_leaving_while_the_model_loads_gives_the_place_back(tmp_path: Path) -> None:
    model = scripted_model("echo", tmp_path, "hold")

    async def test() -> None:
        async with fake_inference(model, max_requests=1) as inference:
            waiting = asyncio.create_task(answer(inference, "hello"))
            await until_loading(inference)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            Path(f"{model.paths[0]}.go").touch()
            assert await answer(inference, "next") == "next"

    run(test())


async def until_loading(inference: Inference) -> None:
    while not any(status.fraction for status in inference.models.statuses()):
        await asyncio.sleep(0.001)


# Deadlines


def test_a_deadline_ends_a_running_request_and_the_worker_hears_of_it() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            assert await answer(inference, "loaded") == "loaded"
            events: list[Event] = []
            with pytest.raises(DeadlineExceeded):
                async for batch in inference.generate(generation("!stall 2", id="late", timeout_seconds=20.0)):
                    events += batch
                    if text_of(events) == "w0 w1":
                        leap(20.0)
            assert text_of(events) == "w0 w1"
            assert inference.num_active == 0
            await until_log(inference, "abort late")
            assert await answer(inference, "in time", timeout_seconds=30.0) == "in time"

    run(test())


def test_the_worker_hears_of_a_deadline_even_while_nobody_reads() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            assert await answer(inference, "loaded") == "loaded"
            async with running(inference, id="late", timeout_seconds=20.0) as batches:
                leap(20.0)
                await until_log(inference, "abort late")
                with pytest.raises(DeadlineExceeded):
                    await rest(batches)

    run(test())


def test_a_worker_that_hears_nothing_cannot_hold_up_a_deadline() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            assert await answer(inference, "loaded") == "loaded"
            with pytest.raises(DeadlineExceeded):
                await answer(inference, "!deaf", timeout_seconds=0.5)

    run(test())


@pytest.mark.parametrize(
    ("fields", "error"),
    [({"timeout_seconds": 20.0}, DeadlineExceeded), ({"queue_seconds": 20.0}, QueueTimeout), ({}, QueueTimeout)],
)
def test_who_waits_for_a_model_too_long_is_told_and_the_model_goes_on_loading(
    tmp_path: Path, fields: dict[str, float], error: type[ShimmyError]
) -> None:
    model = scripted_model("echo", tmp_path, "hold")

    async def test() -> None:
        async with fake_inference(model, queue_seconds=None if fields else 20.0) as inference:
            waiting = asyncio.create_task(answer(inference, "hello", **fields))
            await until_loading(inference)
            leap(20.0)
            with pytest.raises(error):
                await waiting
            assert inference.num_active == 0
            assert inference.models.statuses()[0].state == "loading"
            Path(f"{model.paths[0]}.go").touch()
            while inference.models.statuses()[0].state != "ready":
                await asyncio.sleep(0.001)
            assert await answer(inference, "hello", **fields) == "hello"

    run(test())


def test_the_time_counts_that_it_takes_to_look_for_a_model() -> None:
    """A folder on a network may be slow to say what is in it."""
    silent = threading.Event()

    class SlowCatalog(FakeCatalog):
        def refresh(self) -> list[Change]:
            if self.num_refreshes >= 0:
                silent.wait(LIMIT_SECONDS)
            return super().refresh()

    async def test() -> None:
        async with fake_inference(catalog=SlowCatalog()) as inference:
            try:
                with pytest.raises(QueueTimeout):
                    await answer(inference, "hello", queue_seconds=0.01)
                assert inference.num_active == 0
            finally:
                silent.set()

    run(test())


def test_the_worker_is_told_what_is_left_of_the_time_in_queues() -> None:
    async def test() -> None:
        async with fake_inference(queue_seconds=500.0) as inference:
            asked = json.loads(await answer(inference, "!request", queue_seconds=800.0))
            assert 400.0 < asked["queue_seconds"] < 500.0

    run(test())


# Slow readers


def test_a_slow_reader_pauses_its_own_request_and_gets_everything_in_the_end() -> None:
    async def test() -> None:
        async with fake_inference() as inference, running(inference, "!flood 3000", id="slow") as batches:
            await until_log(inference, "pause slow")
            assert await answer(inference, "others go on") == "others go on"
            received = [batch async for batch in batches]
            assert max(len(text_of(batch)) for batch in received) < 1 << 20
            total = len(text_of([event for batch in received for event in batch]))
            assert 2900 * 1024 < total < 3000 * 1024
            await until_log(inference, "resume slow")

    run(test())


def test_a_worker_that_floods_in_spite_of_the_pause_is_ended() -> None:
    async def test() -> None:
        async with fake_inference() as inference, running(inference, "!deluge") as batches:
            while inference.models.statuses()[0].state == "ready":
                await asyncio.sleep(0.001)
            with pytest.raises(WorkerLost):
                await rest(batches)

    run(test())


# Crashes


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV"])
def test_a_crash_fails_the_streams_of_that_model_only_and_the_model_comes_back(name: str) -> None:
    async def test() -> None:
        async with (
            fake_inference("a", "b", sleep=FakeTime().sleep) as inference,
            running(inference, model="a") as victim,
            running(inference, model="b") as bystander,
        ):
            events: list[Event] = []
            with pytest.raises(WorkerLost, match=rf"^the model's worker process ended \({name}\)$"):
                async for batch in inference.generate(generation(f"!crash {name} 3", model="a")):
                    events += batch
            assert text_of(events) == "w0 w1 w2"
            with pytest.raises(WorkerLost, match=name):
                await rest(victim)
            assert await answer(inference, "!release", model="b") == "released"
            assert isinstance((await rest(bystander))[-1], Finished)
            assert await answer(inference, "back", model="a") == "back"
            assert inference.num_active == 0

    run(test())


def test_vectors_are_asked_for_again_when_their_worker_dies_but_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "ALONE_SECONDS", 0.05)

    async def embed(inference: Inference) -> None:
        request = Embedding(id="vectors", model="echo", inputs=["a", "!stall"])
        async for _ in inference.embed(request):
            pass

    async def test() -> None:
        async with fake_inference(sleep=FakeTime().sleep) as inference:
            task = asyncio.create_task(embed(inference))
            killed = 0
            for _ in range(2):
                await until_log(inference, "embed vectors")
                assert (pid := int(await answer(inference, "!pid"))) != killed
                os.kill(pid, signal.SIGSEGV)
                killed = pid
            with pytest.raises(WorkerLost, match="SIGSEGV"):
                await task
            assert inference.num_active == 0

    run(test())


def test_requests_that_had_no_text_yet_outlive_their_worker_unnoticed() -> None:
    async def test() -> None:
        options = ipc.EngineOptions(num_sequences=1)
        async with fake_inference(options=options, sleep=FakeTime().sleep) as inference:
            pid = int(await answer(inference, "!pid"))
            async with running(inference) as first, aclosing(inference.generate(generation("hello there"))) as second:
                assert isinstance((await anext(second))[0], Accepted)
                third = asyncio.create_task(collect(inference, generation("and more")))
                while inference.num_active < 3:
                    await asyncio.sleep(0)
                os.kill(pid, signal.SIGSEGV)
                with pytest.raises(WorkerLost, match="SIGSEGV"):
                    await rest(first)
                retried = await rest(second)
                assert text_of(retried) == "hello there"
                assert not any(isinstance(event, Accepted) for event in retried)
                assert text_of(await third) == "and more"
                assert sum(isinstance(event, Accepted) for event in await third) == 1

    run(test())


def test_an_answer_that_is_wanted_whole_is_begun_anew_when_its_worker_dies() -> None:
    async def test() -> None:
        async with fake_inference(sleep=FakeTime().sleep) as inference:
            request = generation("!stall 3")
            batches: list[list[Event]] = []

            async def read() -> None:
                async for batch in inference.generate(request, whole=True):
                    batches.append(batch)

            reading = asyncio.create_task(read())
            while await answer(inference, "!active") != "1":
                await asyncio.sleep(0.001)
            # In as many steps all of its words come.
            await answer(inference, "a b c d e")
            os.kill(int(await answer(inference, "!pid")), signal.SIGKILL)
            while inference.models.tally["loads"] < 2 or await answer(inference, "!active") != "1":
                await asyncio.sleep(0.001)
            assert not batches
            await answer(inference, "!release")
            await reading
            [events] = batches
            assert text_of(events) == "w0 w1 w2"
            assert [type(event) for event in events if not isinstance(event, TextDelta)] == [Accepted, Finished]
            assert inference.num_active == 0

    run(test())


@pytest.mark.parametrize("whole", [True, False])
def test_what_crashes_after_its_first_text_is_tried_again_once_if_nobody_has_seen_that(whole: bool) -> None:
    async def test() -> None:
        time = FakeTime()
        async with fake_inference(clock=time.clock, sleep=time.sleep) as inference:
            request = generation("!crash SIGSEGV 2")
            with pytest.raises(WorkerLost, match="SIGSEGV"):
                async for _ in inference.generate(request, whole=whole):
                    pass
            assert await answer(inference, "hello") == "hello"
            assert inference.models.tally["crashes"] == 1 + whole
            if whole:
                with pytest.raises(RequestCrashes):
                    await answer(inference, "!crash SIGSEGV 2")

    run(test())


def test_a_request_is_tried_twice_and_not_more() -> None:
    async def test() -> None:
        time = FakeTime()
        async with fake_inference(clock=time.clock, sleep=time.sleep) as inference:
            with pytest.raises(WorkerLost, match="SIGSEGV"):
                await answer(inference, "!crash SIGSEGV 0")
            assert await answer(inference, "hello") == "hello"
            assert time.slept == [0.5, 1.0]
            with pytest.raises(ModelFailed, match="crashed too often"):
                await answer(inference, "!crash SIGSEGV 0", max_tokens=9)
            assert inference.models.statuses()[0].state == "failed"

    run(test())


@pytest.mark.parametrize("prompt", ["!garbage 1", "!misplaced", "!exit 0 1"])
def test_a_worker_that_misbehaves_is_replaced(prompt: str) -> None:
    async def test() -> None:
        async with fake_inference(sleep=FakeTime().sleep) as inference:
            with pytest.raises(WorkerLost):
                await answer(inference, prompt)
            assert await answer(inference, "hello") == "hello"

    run(test())


def test_a_load_that_fails_is_told_to_everyone_who_waits(tmp_path: Path) -> None:
    async def test() -> None:
        broken = scripted_model("broken", tmp_path, "fail model_invalid bad magic")
        crashing = scripted_model("crashing", tmp_path, "crash SIGABRT")
        async with fake_inference(broken, crashing, "echo") as inference:
            requests = [answer(inference, "hello", model=model) for model in ["broken", "crashing", "echo"] * 3]
            results = await asyncio.gather(*requests, return_exceptions=True)
            for start, expected in enumerate([ModelInvalid, ModelFailed, str]):
                assert [type(result) for result in results[start::3]] == [expected] * 3

    run(test())


# Names and files


def test_an_unknown_name_is_looked_for_again_at_most_every_two_seconds() -> None:
    async def test() -> None:
        time = FakeTime()
        catalog = FakeCatalog(fake_model("echo"))
        async with fake_inference(catalog=catalog, clock=time.clock) as inference:
            catalog.available.append(fake_model("dropped-in"))
            assert await answer(inference, "hello", model="dropped-in") == "hello"
            assert catalog.num_refreshes == 1
            with pytest.raises(ModelNotFound, match="dropped-in"):
                await answer(inference, "hello", model="later")
            catalog.available.append(fake_model("later"))
            time.now += 1.9
            with pytest.raises(ModelNotFound):
                await answer(inference, "hello", model="later")
            assert catalog.num_refreshes == 1
            time.now += 0.1
            await asyncio.gather(*(answer(inference, "hello", model="later") for _ in range(5)))
            assert catalog.num_refreshes == 2
            assert inference.num_active == 0

    run(test())


def test_a_scan_that_nobody_waits_for_any_more_is_good_for_who_comes_next() -> None:
    may_end = threading.Event()

    class SlowCatalog(FakeCatalog):
        def refresh(self) -> list[Change]:
            super().refresh()
            if self.num_refreshes:
                may_end.wait(LIMIT_SECONDS)
            return []

    async def test() -> None:
        catalog = SlowCatalog()
        async with fake_inference(catalog=catalog, clock=FakeTime().clock) as inference:
            try:
                for _ in range(3):
                    with pytest.raises(QueueTimeout):
                        await answer(inference, "hello", queue_seconds=0.01)
            finally:
                may_end.set()
            with pytest.raises(ModelNotFound):
                await answer(inference, "hello")
            assert catalog.num_refreshes == 1

    run(test())


def test_who_asks_for_a_new_scan_during_one_shares_the_next() -> None:
    begun, may_end = threading.Event(), threading.Event()

    class SlowCatalog(FakeCatalog):
        def refresh(self) -> list[Change]:
            super().refresh()
            if self.num_refreshes:
                begun.set()
                may_end.wait(LIMIT_SECONDS)
            return []

    async def test() -> None:
        catalog = SlowCatalog()
        async with fake_inference(catalog=catalog) as inference:

            async def ask() -> None:
                await inference.models.refresh(max_age_seconds=0)

            try:
                asked = [asyncio.create_task(ask())]
                while not begun.is_set():
                    await asyncio.sleep(0.001)
                asked += [asyncio.create_task(ask()) for _ in range(5)]
                # Until all of them wait for the one that runs; those that have gone count as well.
                for _ in range(10):
                    await asyncio.sleep(0)
                asked[-1].cancel()
            finally:
                may_end.set()
            await asyncio.gather(*asked[:-1])
            assert catalog.num_refreshes == 2

    run(test())


def test_a_scan_that_takes_long_is_made_less_often() -> None:
    time = FakeTime()

    class SlowCatalog(FakeCatalog):
        def refresh(self) -> list[Change]:
            time.now += 0.5
            return super().refresh()

    async def test() -> None:
        catalog = SlowCatalog(fake_model("echo"))
        async with fake_inference(catalog=catalog, clock=time.clock) as inference:
            await inference.models.refresh()
            time.now += 4.9
            await inference.models.refresh()
            assert catalog.num_refreshes == 1
            await inference.models.refresh(max_age_seconds=0)
            assert catalog.num_refreshes == 2
            time.now += 5
            await inference.models.refresh()
            assert catalog.num_refreshes == 3

    run(test())


def test_a_broken_file_is_looked_at_again() -> None:
    async def test() -> None:
        catalog = FakeCatalog(fake_model("echo", invalid="truncated"))
        time = FakeTime()
        async with fake_inference(catalog=catalog, clock=time.clock) as inference:
            with pytest.raises(ModelInvalid, match="truncated"):
                await answer(inference, "hello")
            catalog.available[:] = [fake_model("echo")]
            time.now += 2
            assert await answer(inference, "hello") == "hello"

    run(test())


def test_a_replaced_file_takes_over_for_requests_that_still_wait(tmp_path: Path) -> None:
    async def test() -> None:
        catalog = FakeCatalog(scripted_model("echo", tmp_path, "hold"))
        async with fake_inference(catalog=catalog) as inference:
            early = asyncio.create_task(answer(inference, "early"))
            await until_loading(inference)
            catalog.available[:] = [scripted_model("echo", tmp_path, "ready")]
            await inference.models.refresh()
            assert await answer(inference, "late") == "late"
            assert await early == "early"

    run(test())


def test_however_often_a_file_is_replaced_while_it_loads_nobody_is_lost(tmp_path: Path) -> None:
    async def test() -> None:
        catalog = FakeCatalog(scripted_model("echo", tmp_path, "hold"))
        async with fake_inference(catalog=catalog) as inference:
            waiting = [
                asyncio.create_task(answer(inference, "early")),
                asyncio.create_task(inference.models.preload("echo")),
            ]
            for load in ("hold", "hold", "hold", "ready"):
                await until_loading(inference)
                catalog.available[:] = [scripted_model("echo", tmp_path, load)]
                await inference.models.refresh(max_age_seconds=0)
                waiting.append(asyncio.create_task(answer(inference, "early")))
                await asyncio.sleep(0.05)
            assert await asyncio.gather(*waiting) == ["early", None, *["early"] * 4]

    run(test())


def test_a_load_outlives_the_replacement_of_the_file_that_it_began_with(tmp_path: Path) -> None:
    async def test() -> None:
        catalog = FakeCatalog(scripted_model("echo", tmp_path, "hold"))
        async with fake_inference(catalog=catalog) as inference:
            loading = asyncio.create_task(inference.models.load("echo"))
            await until_loading(inference)
            catalog.available[:] = [scripted_model("echo", tmp_path, "ready")]
            await inference.models.refresh(max_age_seconds=0)
            assert await answer(inference, "late") == "late"
            await loading
            assert inference.models.tally["loads"] == 1

    run(test())


def test_preloading_loads_and_says_what_is_wrong(tmp_path: Path) -> None:
    async def test() -> None:
        broken = scripted_model("broken", tmp_path, "fail model_invalid bad magic")
        async with fake_inference("echo", broken) as inference:
            await inference.models.preload("echo")
            assert inference.models.statuses()[0].state == "ready"
            with pytest.raises(ModelInvalid, match="bad magic"):
                await inference.models.preload("broken")
            with pytest.raises(ModelNotFound):
                await inference.models.preload("nothing")

    run(test())


# Limits and the end


def test_a_full_server_says_when_to_come_back() -> None:
    async def test() -> None:
        async with fake_inference(max_requests=2) as inference:
            async with running(inference), running(inference):
                with pytest.raises(Busy) as raised:
                    await answer(inference, "hello")
                assert raised.value.details["retry_after_seconds"] > 0
            assert await answer(inference, "hello") == "hello"

    run(test())


def test_draining_lets_running_requests_finish_and_nothing_new_in() -> None:
    async def test() -> None:
        async with fake_inference() as inference, running(inference, "!flood 600") as batches:
            draining = asyncio.create_task(inference.drain(60))
            await asyncio.sleep(0)
            with pytest.raises(Draining):
                await answer(inference, "hello")
            assert isinstance((await rest(batches))[-1], Finished)
            assert await draining

    run(test())


def test_closing_fails_whatever_is_left_whether_it_runs_or_waits(tmp_path: Path) -> None:
    async def test() -> None:
        held = scripted_model("held", tmp_path, "hold")
        async with fake_inference("echo", held) as inference, running(inference) as batches:
            waiting = asyncio.create_task(answer(inference, "hello", model="held"))
            while len(inference.models.statuses()) < 2:
                await asyncio.sleep(0)
            assert not await inference.drain(0)
            await inference.close()
            with pytest.raises(Draining):
                await rest(batches)
            with pytest.raises(Draining):
                await waiting
            assert inference.num_active == 0
            assert not children()

    run(test())


def test_a_deaf_worker_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle_module, "CLOSE_SECONDS", 0.05)

    async def test() -> None:
        async with fake_inference() as inference, running(inference, "!deaf"):
            await inference.close()
            assert not children()

    run(test())


def test_a_worker_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "HTTPS_PROXY", "SHIMMY_API_KEY"):
        monkeypatch.setenv(name, "secret")

    async def test() -> None:
        async with fake_inference() as inference:
            environment = json.loads(await answer(inference, "!environment"))
            assert "secret" not in environment.values()
            assert environment["GGML_NO_BACKTRACE"] == "1"

    run(test())


def test_tokens_are_counted() -> None:
    async def test() -> None:
        async with fake_inference("echo", "other") as inference:
            chat = Chat([Message("user", "Hi")])
            assert await inference.count_tokens("echo", chat) == len("[Hi]>")
            assert await inference.render("echo", chat) == "[Hi]>"
            assert await inference.models.context_length("echo") == 4096
            assert await inference.models.context_length("other") is None
            with pytest.raises(ModelNotFound):
                await inference.count_tokens("nobody", chat)
            assert inference.num_active == 0

    run(test())


def test_a_question_holds_a_place() -> None:
    async def test() -> None:
        async with fake_inference(max_requests=1) as inference:
            async with aclosing(inference.generate(generation("!stall 1"))) as batches:
                await anext(batches)
                with pytest.raises(Busy):
                    await inference.detokenize("echo", [97])
            assert await inference.detokenize("echo", [97]) == "a"

    run(test())


def test_a_loaded_model_goes_on_answering_when_its_file_breaks_and_status_says_why(tmp_path: Path) -> None:
    catalog = FakeCatalog(scripted_model("m", tmp_path, "ready"))

    async def test() -> None:
        async with fake_inference(catalog=catalog) as inference:
            first = await answer(inference, "!pid", model="m")
            (tmp_path / "broken.gguf").write_bytes(b"half a file")
            catalog.available = [fake_model("m", path=tmp_path / "broken.gguf", invalid="the file is cut off")]
            with pytest.raises(ModelInvalid, match="cut off; the model stays"):
                await inference.models.load("m")
            assert await answer(inference, "!pid", model="m") == first
            switch = (await inference.models.status("m")).switch
            assert switch is not None and (switch.state, "cut off" in (switch.reason or "")) == ("failed", True)
            catalog.available = [scripted_model("m", tmp_path, "ready")]
            await inference.models.load("m")
            assert await answer(inference, "!pid", model="m") != first

    run(test())


def test_a_model_that_is_to_stay_no_longer_than_a_request_does_not_leave_before_it() -> None:
    async def test() -> None:
        async with fake_inference() as inference:
            keep_alive.hear_field(0, "keep_alive")
            await inference.models.preload("echo")
            stay = inference._placement.stay_of("echo")
            assert stay.keep_alive_seconds > 0
            assert await answer(inference, "hi") == "hi"
            assert stay.keep_alive_seconds == 0

    run(test())
