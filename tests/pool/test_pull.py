"""A process that pulls: what it says is told, how it ends is told apart, and it is gone when nobody wants it."""

import asyncio
import os
import sys
from contextlib import aclosing

import pytest

from shimmy.core.errors import Draining, ModelNotFound, PullFailed
from shimmy.core.pulling import Progress
from shimmy.pool.pull import pull, pull_argv


def saying(*lines: str, then: str = "") -> list[str]:
    return [sys.executable, "-c", f"import os, time\nfor line in {lines!r}: print(line, flush=True)\n{then}"]


async def collected(argv: list[str]) -> list[Progress]:
    return [each async for each in pull(argv, asyncio.Event())]


def test_what_it_says() -> None:
    said = ['{"status":"one"}', '{"status":"two","digest":"00","total":9,"completed":3}', '{"status":"success"}']
    found = asyncio.run(collected(saying(*said, then="time.sleep(60)")))
    assert found == [Progress("one"), Progress("two", "00", None, 9, 3), Progress("success")]


def test_how_it_fails() -> None:
    fault = '{"status":"failed","error":{"code":"model_not_found","message":"there is none","param":"model"}}'
    with pytest.raises(ModelNotFound, match="there is none") as raised:
        asyncio.run(collected(saying('{"status":"one"}', fault)))
    assert raised.value.param == "model"
    with pytest.raises(PullFailed, match="exit code 7"):
        asyncio.run(collected(saying('{"status":"one"}', then="os._exit(7)")))
    with pytest.raises(PullFailed, match="says b'rubbish"):
        asyncio.run(collected(saying("rubbish", then="time.sleep(60)")))


TELLS_ITS_ID = saying(then='print(\'{"status":"%d"}\' % os.getpid(), flush=True); time.sleep(60)')


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_closing_ends_it() -> None:
    async def main() -> int:
        async with aclosing(pull(TELLS_ITS_ID, asyncio.Event())) as said:
            return int((await anext(said)).status)

    assert is_gone(asyncio.run(main()))


def test_a_server_that_leaves_ends_it() -> None:
    async def main() -> int:
        closing = asyncio.Event()
        async with aclosing(pull(TELLS_ITS_ID, closing)) as said:
            pid = int((await anext(said)).status)
            closing.set()
            with pytest.raises(Draining):
                await anext(said)
        return pid

    assert is_gone(asyncio.run(main()))


def test_no_name_is_a_flag() -> None:
    argv = pull_argv("--help", "-x")
    assert argv[-5:] == ["pull", "--json", "--revision=-x", "--", "--help"]
