"""Ctrl-C while a subcommand waits."""

import asyncio
import signal
import subprocess
import sys
import textwrap

import pytest

from shimmy.cli.interrupt import run


def test_gives_what_was_waited_for() -> None:
    async def answer() -> int:
        await asyncio.sleep(0)
        return 42

    assert run(answer()) == 42


def test_passes_on_what_is_raised() -> None:
    async def fail(error: BaseException) -> None:
        raise error

    for error in (ValueError("no"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            run(fail(error))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


CODE = """
import asyncio, signal, threading, time
from shimmy.cli.interrupt import run

async def wait():
    # The signal interrupts another thread: for this one it is as if it had come just before it began to wait.
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    print("waiting", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned up", flush=True)

try:
    run(wait())
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there signals do not interrupt threads")
def test_a_signal_that_comes_as_the_loop_begins_to_wait() -> None:
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(CODE)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[0] == "cleaned up\ninterrupted\n"
        finally:
            process.kill()
