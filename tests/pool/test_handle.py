import asyncio
import os
import signal
from pathlib import Path

import pytest

from shimmy.core import frames, ipc
from shimmy.core.errors import ModelFailed, ModelInvalid, ShimmyError, TooLarge, WorkerLost
from shimmy.core.events import Accepted, Event
from shimmy.core.request import Text
from shimmy.pool import handle as handle_module
from shimmy.pool import process as process_module
from shimmy.pool.asked import Asked
from shimmy.pool.handle import Handle, State
from shimmy.pool.process import WorkerProcess
from shimmy.pool.stream import Stream
from tests.fakes.pool import fake_spawn, generation, run, scripted_model, text_of

CLOSED = WorkerLost("closed by the test")


def a_handle(path: str = "/fake/echo.gguf") -> Handle:
    return Handle("echo", ipc.Load([path]), lambda fraction: None)


async def opened() -> Handle:
    handle = a_handle()
    await handle.open(fake_spawn)
    return handle


async def text(handle: Handle, prompt: str) -> str:
    return text_of(await events(await handle.submit(generation(prompt))))


async def events(stream: Stream) -> list[Event]:
    return [event async for batch in stream for event in batch]


async def first_word(stream: Stream) -> None:
    async for batch in stream:
        if not isinstance(batch[-1], Accepted):
            return


def test_a_model_is_loaded_answers_and_is_closed() -> None:
    async def test() -> None:
        fractions: list[float] = []
        handle = Handle("echo", ipc.Load(["/fake"], ipc.EngineOptions(num_sequences=3)), fractions.append)
        assert handle.loaded is None
        await handle.open(fake_spawn)
        assert handle.state is State.READY
        assert handle.loaded is not None and handle.loaded.num_sequences == 3
        assert fractions == [0.5]
        assert await text(handle, "good morning") == "good morning"
        await handle.close(CLOSED)
        assert handle.state is State.CLOSED
        assert handle.exit is not None and handle.exit.returncode == 0

    run(test())


@pytest.mark.parametrize(
    ("load", "error", "message"),
    [
        ("fail model_invalid bad magic", ModelInvalid, "bad magic"),
        ("fail model_failed no memory", ModelFailed, "no memory"),
        ("crash SIGABRT", ModelFailed, "SIGABRT"),
        ("exit 9", ModelFailed, "exit code 9"),
    ],
)
def test_a_load_that_fails_says_why(tmp_path: Path, load: str, error: type[ShimmyError], message: str) -> None:
    async def test() -> None:
        handle = a_handle(scripted_model("echo", tmp_path, load).paths[0])
        with pytest.raises(error, match=message):
            await handle.open(fake_spawn)
        with pytest.raises(WorkerLost):
            await handle.submit(generation("hello"))
        await handle.close(CLOSED)

    run(test())


def test_no_process_no_model() -> None:
    async def no_spawn(*_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    async def test() -> None:
        with pytest.raises(ModelFailed, match="Resource temporarily unavailable"):
            await a_handle().open(no_spawn)  # type: ignore[arg-type]

    run(test())


def test_closing_ends_a_load_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        handle = a_handle(scripted_model("echo", tmp_path, "mute").paths[0])
        opening = asyncio.create_task(handle.open(fake_spawn))
        while handle.state is State.STARTING:
            await asyncio.sleep(0)
        await handle.close(CLOSED)
        with pytest.raises(WorkerLost, match="closed by the test"):
            await opening

    run(test())


def test_whoever_waits_does_not_wait_for_a_process_that_the_system_cannot_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process_module, "_UNKILLABLE_SECONDS", 0.0)

    async def test() -> None:
        handle = await opened()
        stream = await handle.submit(generation("!stall 1"))
        pid = handle.pid
        assert pid is not None
        with monkeypatch.context() as patched:
            patched.setattr(WorkerProcess, "kill", lambda process: None)
            handle.end_hung()
            with pytest.raises(WorkerLost, match="it did nothing any more"):
                await events(stream)
            await handle.ended.wait()
            await handle.close(CLOSED)
        # Letting go of it kills it here.
        while os.path.exists(f"/proc/{pid}"):
            await asyncio.sleep(0.01)

    run(test())


@pytest.mark.parametrize("name", ["SIGABRT", "SIGSEGV", "SIGKILL"])
def test_a_death_fails_every_stream_after_what_it_had_to_say(name: str) -> None:
    async def test() -> None:
        handle = await opened()
        bystander = await handle.submit(generation("!stall 2"))
        await first_word(bystander)
        stream = await handle.submit(generation(f"!crash {name} 3"))
        received: list[Event] = []
        with pytest.raises(WorkerLost, match=name):
            async for batch in stream:
                received += batch
        assert text_of(received) == "w0 w1 w2"
        with pytest.raises(WorkerLost, match=name):
            await events(bystander)
        assert handle.ended.is_set()
        assert handle.idle.is_set()
        assert handle.state is State.LOST
        with pytest.raises(WorkerLost):
            await handle.submit(generation("hello"))
        await handle.close(CLOSED)

    run(test())


def test_the_reason_of_a_crash_is_logged_and_not_shown_to_clients(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        handle = await opened()
        with pytest.raises(WorkerLost) as raised:
            await text(handle, "!crash SIGABRT 1")
        assert raised.value.message == "the model's worker process ended (SIGABRT)"
        await handle.close(CLOSED)

    run(test())
    assert "worker of model echo ended: SIGABRT" in caplog.text
    assert "fake worker: dying by SIGABRT" in caplog.text


@pytest.mark.parametrize("prompt", ["!garbage 1", "!misplaced"])
def test_a_worker_that_breaks_the_protocol_is_killed(prompt: str) -> None:
    async def test() -> None:
        handle = await opened()
        with pytest.raises(WorkerLost, match="broke the frame protocol"):
            await text(handle, prompt)
        await handle.close(CLOSED)

    run(test())


def test_an_error_of_one_request_is_no_concern_of_the_others() -> None:
    async def test() -> None:
        handle = await opened()
        for prompt in ("!fail invalid_request bad template", "!break internal_error it broke"):
            with pytest.raises(ShimmyError, match="bad template|it broke"):
                await text(handle, prompt)
            assert handle.idle.is_set()
        assert await text(handle, "hello") == "hello"
        await handle.close(CLOSED)

    run(test())


def test_an_aborted_request_ends_in_the_worker() -> None:
    async def test() -> None:
        handle = await opened()
        stream = await handle.submit(generation("!stall 1", id="unwanted"))
        await first_word(stream)
        assert not handle.idle.is_set()
        handle.abort(stream)
        handle.abort(stream)
        assert handle.idle.is_set()
        assert await text(handle, "!log") == "abort unwanted"
        await handle.close(CLOSED)

    run(test())


def test_a_request_that_is_over_is_not_aborted() -> None:
    async def test() -> None:
        handle = await opened()
        stream = await handle.submit(generation("hello"))
        await events(stream)
        handle.abort(stream)
        assert await text(handle, "!log") == ""
        await handle.close(CLOSED)

    run(test())


def test_an_id_in_use_is_refused() -> None:
    async def test() -> None:
        handle = await opened()
        stream = await handle.submit(generation("!stall 1", id="same"))
        with pytest.raises(ShimmyError, match="same"):
            await handle.submit(generation("hello", id="same"))
        await first_word(stream)
        await handle.close(CLOSED)
        with pytest.raises(WorkerLost, match="closed by the test"):
            await events(stream)

    run(test())


def test_a_request_over_the_frame_limit_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        handle = await opened()
        with monkeypatch.context() as patch:
            patch.setattr(frames, "MAX_FRAME_BYTES", 1000)
            with pytest.raises(TooLarge):
                await handle.submit(generation("x" * 2000))
        assert handle.idle.is_set()
        assert await text(handle, "hello") == "hello"
        await handle.close(CLOSED)

    run(test())


def stop(handle: Handle) -> int:
    """Freezes the worker; returns its process id."""
    assert handle._process is not None
    os.kill(handle._process.pid, signal.SIGSTOP)
    return handle._process.pid


def test_requests_to_a_worker_that_does_not_read_wait_and_can_be_cancelled() -> None:
    async def test() -> None:
        handle = await opened()
        pid = stop(handle)
        first = await handle.submit(generation("!say " + "x" * (1 << 20)))
        unwanted = asyncio.create_task(handle.submit(generation("y" * (1 << 20), id="unwanted")))
        third = asyncio.create_task(handle.submit(generation("short")))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not unwanted.done() and not third.done()
        unwanted.cancel()
        os.kill(pid, signal.SIGCONT)
        assert len(text_of(await events(first))) == 1 << 20
        assert text_of(await events(await third)) == "short"
        assert unwanted.cancelled()
        await handle.close(CLOSED)

    run(test())


def test_requests_that_wait_for_a_worker_that_dies_fail() -> None:
    async def test() -> None:
        handle = await opened()
        pid = stop(handle)
        first = await handle.submit(generation("x" * (1 << 20)))
        second = asyncio.create_task(handle.submit(generation("short")))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        for stream in (first, await second):
            with pytest.raises(WorkerLost):
                await events(stream)
        await handle.close(CLOSED)

    run(test())


def test_a_worker_that_does_not_hear_the_close_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle_module, "CLOSE_SECONDS", 0.05)

    async def test() -> None:
        handle = await opened()
        stop(handle)
        await handle.close(CLOSED)
        assert handle.exit is not None and handle.exit.returncode == -signal.SIGKILL

    run(test())


def test_a_worker_with_a_disk_has_time_to_store(monkeypatch: pytest.MonkeyPatch) -> None:
    granted = []

    async def close(self: WorkerProcess, grace_seconds: float) -> None:
        granted.append(grace_seconds)
        self.kill()

    monkeypatch.setattr(WorkerProcess, "close", close)

    async def test() -> None:
        for disk in (None, ipc.DiskCache(b"/fake", 1)):
            load = ipc.Load(["/fake/echo.gguf"], ipc.EngineOptions(disk_cache=disk))
            handle = Handle("echo", load, lambda fraction: None)
            await handle.open(fake_spawn)
            await handle.close(CLOSED)
            await handle.ended.wait()

    run(test())
    assert granted == [handle_module.CLOSE_SECONDS, handle_module.CLOSE_SECONDS + ipc.STORE_SECONDS]


def test_life_goes_one_way() -> None:
    async def test() -> None:
        handle = await opened()
        await handle.close(CLOSED)
        with pytest.raises(RuntimeError, match="CLOSED cannot become READY"):
            handle._move(State.READY)

    run(test())


def test_questions_are_answered_beside_streams() -> None:
    async def test() -> None:
        handle = await opened()
        stream = await handle.submit(generation("!stall 1"))
        asked = [handle.ask(ipc.Tokenize(Text("x" * count), add_special=False)) for count in range(1, 9)]
        answers = await asyncio.gather(*asked)
        assert answers == [ipc.Tokenized([120] * count) for count in range(1, 9)]
        assert not handle.idle.is_set()
        handle.abort(stream)
        assert handle.idle.is_set()
        await handle.close(CLOSED)

    run(test())


def test_a_question_that_fails_fails_alone() -> None:
    async def test() -> None:
        handle = await opened()
        with pytest.raises(ModelInvalid, match="broken"):
            await handle.ask(ipc.Tokenize(Text("!fail model_invalid broken")))
        assert await handle.ask(ipc.CountTokens(Text("abc"))) == ipc.Counted(3)
        await handle.close(CLOSED)

    run(test())


def test_questions_to_a_worker_that_dies_fail() -> None:
    async def test() -> None:
        handle = await opened()
        asked = [handle.ask(ipc.Tokenize(Text(text))) for text in ("!crash", "a")]
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(result, WorkerLost) for result in results)
        assert handle.idle.is_set()
        with pytest.raises(WorkerLost):
            await handle.ask(ipc.CountTokens(Text("a")))

    run(test())


def test_whoever_asks_may_leave() -> None:
    async def test() -> None:
        handle = await opened()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await handle.ask(ipc.CountTokens(Text("a")))
        assert handle.idle.is_set()
        assert await handle.ask(ipc.CountTokens(Text("abc"))) == ipc.Counted(3)
        await handle.close(CLOSED)

    run(test())


def test_an_answer_in_parts_is_whole() -> None:
    async def test() -> None:
        asked = Asked()
        asked.push(ipc.Tokenized([1, 2], [b"a", b"b"]), more=True)
        assert not asked.answer.done()
        asked.push(ipc.Tokenized([3], [b"c"]), more=False)
        assert await asked.answer == ipc.Tokenized([1, 2, 3], [b"a", b"b", b"c"])
        asked = Asked()
        asked.push(ipc.Written("a"), more=True)
        asked.push(ipc.Written("b"), more=False)
        assert await asked.answer == ipc.Written("ab")

    run(test())
