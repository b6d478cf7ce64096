"""A process that pulls: what it says is told, how it ends is told apart, and it is gone when nobody wants it."""

import asyncio
import os
import sys
from contextlib import aclosing

import pytest

from shimmy.core.errors import ModelNotFound, PullFailed
from shimmy.core.pulling import Progress
from shimmy.pool.pull import pull, pull_argv


def saying(*lines: str, then: str = "") -> list[str]:
    return [sys.executable, "-c", f"import os, time\nfor line in {lines!r}: print(line, flush=True)\n{then}"]


async def collected(argv: list[str]) -> list[Progress]:
    return [each async for each in pull(argv)]


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


def test_closing_ends_it() -> None:
    async def main() -> int:
        async with aclosing(
            pull(saying(then='print(\'{"status":"%d"}\' % os.getpid(), flush=True); time.sleep(60)'))
        ) as said:
            return int((await anext(said)).status)

    with pytest.raises(ProcessLookupError):
        os.kill(asyncio.run(main()), 0)


def test_no_name_is_a_flag() -> None:
    argv = pull_argv("--help", "-x")
    assert argv[-5:] == ["pull", "--json", "--revision=-x", "--", "--help"]
