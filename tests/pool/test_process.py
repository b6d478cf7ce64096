import asyncio
import logging
import os
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from shimmy.core import ipc
from shimmy.pool import process
from shimmy.pool.process import Exit, WorkerProcess, spawn
from tests.fakes.pool import children, generation, run

ECHO_STDIN = "import sys; print(len(sys.stdin.buffer.read()), file=sys.stderr)"


class Owner:
    """Keeps what a worker says, and how it ended."""

    def __init__(self) -> None:
        self.messages: list[ipc.FromWorker] = []
        self.exits: list[Exit] = []
        self.ended = asyncio.Event()

    async def start(self, code: str) -> WorkerProcess:
        return await spawn([sys.executable, "-c", code], {}, self.messages.append, self.on_end)

    def on_end(self, exit: Exit) -> None:
        self.exits.append(exit)
        self.ended.set()


def end_of(code: str) -> Exit:
    """Runs a worker that ends by itself; checks that its end is told once."""

    async def test() -> Exit:
        owner = Owner()
        worker = await owner.start(code)
        await owner.ended.wait()
        await worker.close(0)
        [exit] = owner.exits
        return exit

    return run(test())


@pytest.mark.parametrize(
    ("code", "returncode", "text"),
    [
        ("raise SystemExit(7)", 7, "exit code 7"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, "SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, "SIGKILL, perhaps for lack of memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGRTMIN + 3)", -signal.SIGRTMIN - 3, "signal 37"),
    ],
)
def test_how_a_worker_ended_is_told(code: str, returncode: int, text: str) -> None:
    exit = end_of("import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); " + code)
    assert (exit.returncode, str(exit)) == (returncode, text)


def test_the_last_lines_of_stderr_are_kept() -> None:
    exit = end_of("import os\nfor i in range(200): os.write(2, b'line %d\\n' % i)\nos.write(2, b'half \\xff a line')")
    assert len(exit.stderr_tail) == 51
    assert exit.stderr_tail[-2:] == ("line 199", "half \ufffd a line")


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    exit = end_of("import sys\nfor _ in range(100): sys.stderr.write('x' * 100_000)")
    assert [len(line) for line in exit.stderr_tail] == [4096]


def test_what_a_worker_warns_of_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="shimmy.pool.process"):
        end_of("import sys; print('[warning] the disk is full', file=sys.stderr)")
    (record,) = [record for record in caplog.records if "disk" in record.message]
    assert record.levelno == logging.WARNING and record.message.endswith(": the disk is full")


def test_stderr_is_forwarded_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "shimmy.pool.process"):
        end_of("import sys; print('llama says', file=sys.stderr)")
    assert "llama says" in caplog.text


@pytest.mark.parametrize(
    "output", [b"\xff" * 8, b"\x02\x00\x00\x00\xc1\xc1", b"\x03\x00\x00\x00abc"], ids=["size", "msgpack", "type"]
)
def test_bytes_that_are_no_frame_get_the_worker_killed(output: bytes) -> None:
    exit = end_of(f"import os, time; os.write(1, {output!r}); time.sleep(600)")
    assert exit.violation
    assert str(exit) == "it broke the frame protocol"


def test_a_message_its_owner_cannot_handle_gets_the_worker_killed(caplog: pytest.LogCaptureFixture) -> None:
    frame = ipc.encode(ipc.LoadProgress(0.5))

    def on_message(message: ipc.FromWorker) -> None:
        raise KeyError("a mistake of ours")

    async def test() -> Exit:
        owner = Owner()
        code = f"import os, time; os.write(1, {frame!r}); time.sleep(600)"
        await spawn([sys.executable, "-c", code], {}, on_message, owner.on_end)
        await owner.ended.wait()
        return owner.exits[0]

    assert run(test()).violation is not None
    assert "a mistake of ours" in caplog.text


def test_frames_arrive_whole_however_they_are_split_and_before_the_end_is_told() -> None:
    frames = b"".join(ipc.encode(ipc.LoadProgress(i / 100)) for i in range(100))
    code = f"import os\nfor byte in {frames!r}: os.write(1, bytes([byte]))\nos.abort()"

    async def test() -> None:
        owner = Owner()
        await owner.start("import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n" + code)
        await owner.ended.wait()
        assert owner.messages == [ipc.LoadProgress(i / 100) for i in range(100)]
        assert owner.exits[0].returncode == -signal.SIGABRT

    run(test())


def test_a_worker_is_asked_to_leave_by_the_end_of_its_stdin() -> None:
    async def test() -> None:
        owner = Owner()
        worker = await owner.start(ECHO_STDIN)
        abort = ipc.Abort("r")
        worker.send(abort)
        await worker.close(60)
        assert owner.exits == [Exit(0, (str(len(ipc.encode(abort))),))]
        worker.send(abort)
        await worker.close(60)

    run(test())


def test_a_worker_that_does_not_leave_is_killed() -> None:
    async def test() -> None:
        owner = Owner()
        worker = await owner.start("import time; time.sleep(600)")
        await worker.close(0.05)
        assert owner.exits[0].returncode == -signal.SIGKILL

    run(test())


def test_a_worker_that_takes_its_time_to_leave_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LINGER_SECONDS", 0.05)

    async def test() -> None:
        owner = Owner()
        worker = await owner.start("import sys, time; sys.stdin.buffer.read(); time.sleep(0.5); sys.exit(7)")
        await worker.close(60)
        assert owner.exits[0].returncode == 7

    run(test())


def test_a_close_that_is_cancelled_kills_too() -> None:
    async def test() -> None:
        owner = Owner()
        worker = await owner.start("import time; time.sleep(600)")
        closing = asyncio.create_task(worker.close(600))
        await asyncio.sleep(0)
        closing.cancel()
        await owner.ended.wait()
        assert owner.exits[0].returncode == -signal.SIGKILL

    run(test())


def test_a_worker_that_closes_its_output_but_stays_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_LINGER_SECONDS", 0.05)
    assert end_of("import os, time; os.close(1); time.sleep(600)").returncode == -signal.SIGKILL


def test_an_heir_of_the_pipes_does_not_hide_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The heir here leaves once the server has let go of the pipes."""
    monkeypatch.setattr(process, "_LINGER_SECONDS", 0.05)
    assert end_of("import os\nif os.fork(): os._exit(4)\nos.read(0, 1)").returncode == 4


def test_ctrl_c_on_the_terminal_does_not_reach_a_worker() -> None:
    async def test() -> None:
        owner = Owner()
        worker = await owner.start(ECHO_STDIN)
        assert os.getsid(worker.pid) == worker.pid != os.getsid(0)
        await worker.close(60)

    run(test())


def test_a_program_that_is_not_there_is_an_error() -> None:
    async def test() -> None:
        owner = Owner()
        with pytest.raises(OSError, match="no such program"):
            await spawn(["/no such program"], {}, owner.messages.append, owner.on_end)

    run(test())


def test_a_worker_that_does_not_read_holds_up_the_next_in_turn_and_nothing_else() -> None:
    big = ipc.Generate(generation("x" * (1 << 20)))

    async def test() -> None:
        owner = Owner()
        worker = await owner.start("import time; time.sleep(600)")
        await worker.send_in_turn(big)
        second = asyncio.create_task(worker.send_in_turn(big))
        given_up = asyncio.create_task(worker.send_in_turn(big))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not second.done()
        given_up.cancel()
        worker.kill()
        await second
        assert given_up.cancelled()
        await owner.ended.wait()

    run(test())


def test_what_was_held_up_is_read_in_the_order_it_came() -> None:
    messages = [ipc.Generate(generation("x" * (1 << 20))) for _ in range(4)]

    async def test() -> None:
        owner = Owner()
        worker = await owner.start(ECHO_STDIN)
        await asyncio.gather(*(worker.send_in_turn(message) for message in messages))
        await worker.close(60)
        assert owner.exits[0].stderr_tail == (str(sum(len(ipc.encode(message)) for message in messages)),)

    run(test())


def test_the_end_by_a_signal_is_told_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGKILL")
    assert str(Exit(-9)) == "SIGKILL, perhaps for lack of memory"
    assert str(Exit(3221225477)) == "exit code 3221225477"


def test_where_there_is_no_sigkill_the_transport_kills(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[bool] = []
    pipe = SimpleNamespace(get_protocol=lambda: None, set_protocol=lambda protocol: None)
    transport = SimpleNamespace(
        get_returncode=lambda: None, kill=lambda: killed.append(True), get_pipe_transport=lambda fd: pipe
    )
    worker = WorkerProcess(lambda message: None, lambda exit: None)
    worker.connection_made(cast(asyncio.SubprocessTransport, transport))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delattr(signal, "SIGKILL")
    worker.kill()
    assert killed == [True]


def test_where_there_are_no_sessions_a_worker_gets_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    async def test() -> None:
        async def subprocess_exec(loop: object, factory: object, *argv: str, **options: Any) -> tuple[None, None]:
            given.update(options)
            return None, None

        monkeypatch.setattr(type(asyncio.get_running_loop()), "subprocess_exec", subprocess_exec)
        await Owner().start("never run")

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200, raising=False)
    asyncio.run(test())
    assert given == {"env": {}, "creationflags": 0x200}


def test_children_are_seen_at_all() -> None:
    """The check that every test here ends with must be able to fail."""

    async def test() -> None:
        owner = Owner()
        worker = await owner.start(ECHO_STDIN)
        assert worker.pid in children()
        await worker.close(60)
        assert worker.pid not in children()

    run(test())
