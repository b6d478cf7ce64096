import sys
from typing import cast

import pytest

from shimmy.core import ipc
from shimmy.core.errors import ModelFailed, ShimmyError
from shimmy.pool.devices import list_devices
from shimmy.pool.process import OnEnd, OnMessage, Spawn, WorkerProcess, spawn
from tests.fakes.pool import fake_spawn, run


def test_a_worker_without_a_model_is_asked_and_ended() -> None:
    devices = run(list_devices(fake_spawn))
    assert [device.name for device in devices.devices] == ["CPU"]
    assert devices.absent[0].name == "CUDA"


def python(code: str) -> Spawn:
    async def spawn_python(on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
        return await spawn([sys.executable, "-c", code], {}, on_message, on_end)

    return spawn_python


OPENING = {path.encode(): ipc.encode(ipc.Opening(path)) for path in ("/one.so", "/two.so")}
CRASHING = f"""
import os, signal, sys
asked = os.read(0, 65536)
for path, opening in {OPENING}.items():
    if path not in asked:
        os.write(1, opening)
        os.kill(os.getpid(), signal.SIGSEGV)
assert asked.count(b"the process that opened it ended (SIGSEGV)") == 2
os.write(1, {ipc.encode(ipc.Devices([], [ipc.AbsentBackend("one", "see above")], "b0", "fake", []))!r})
sys.stdin.read()
"""


def test_libraries_that_crash_are_left_out() -> None:
    """One by one, and the last worker is told why."""
    assert run(list_devices(python(CRASHING))).absent == [ipc.AbsentBackend("one", "see above")]


class Stuck:
    """A worker that never comes back from a library that it may open, and else answers at once."""

    def __init__(self, on_message: OnMessage) -> None:
        self._on_message = on_message

    def send(self, message: ipc.ToWorker) -> None:
        assert isinstance(message, ipc.ListDevices)
        if self.opens(message):
            self._on_message(ipc.Opening("/one.so"))
        else:
            absent = [ipc.AbsentBackend("one", message.unusable["/one.so"])]
            self._on_message(ipc.Devices([], absent, "b0", "fake", []))

    def opens(self, message: ipc.ListDevices) -> bool:
        return "/one.so" not in message.unusable

    async def close(self, seconds: float) -> None:
        pass


def stuck(kind: type[Stuck]) -> Spawn:
    async def spawn_stuck(on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
        return cast(WorkerProcess, kind(on_message))

    return spawn_stuck


def test_a_library_that_never_comes_back_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # So long the first worker is waited for; the second one answers before anybody waits.
    monkeypatch.setattr("shimmy.pool.devices._ANSWER_SECONDS", 0.01)
    assert run(list_devices(stuck(Stuck))).absent == [ipc.AbsentBackend("one", "it did not open in 0.01 s")]

    class Always(Stuck):
        def opens(self, message: ipc.ListDevices) -> bool:
            return True

    with pytest.raises(ShimmyError, match="did not list its devices in 0.01 s"):
        run(list_devices(stuck(Always)))


def test_a_library_that_hung_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shimmy.pool.devices._ANSWER_SECONDS", 0.01)
    hung: dict[str, str] = {}
    first = run(list_devices(stuck(Stuck), hung=hung))
    assert hung == {"/one.so": "it did not open in 0.01 s"}

    class Once(Stuck):
        def opens(self, message: ipc.ListDevices) -> bool:
            assert message.unusable == hung
            return False

    assert run(list_devices(stuck(Once), hung=hung)) == first


def test_a_crash_that_leaving_out_does_not_help_is_an_error() -> None:
    stubborn = CRASHING.replace("if path not in asked", "if path")
    with pytest.raises(ShimmyError, match="SIGSEGV"):
        run(list_devices(python(stubborn)))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "exit code 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        (
            f"""
import sys
sys.stdout.buffer.write({ipc.encode(ipc.LoadFailed(ModelFailed("no room for the library").fault()))!r})
sys.stdout.flush()
sys.stdin.read()
""",
            "no room for the library",
        ),
        ("print('no frame', flush=True); input()", "broke the frame protocol"),
    ],
)
def test_a_worker_that_does_not_answer_is_an_error(code: str, message: str) -> None:
    with pytest.raises(ShimmyError, match=message):
        run(list_devices(python(code)))
