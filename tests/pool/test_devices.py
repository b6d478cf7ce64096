import sys

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
