"""The measurements, each one function over a running server. What they return is what the JSON document holds.

Every prompt is new to the server, so no figure is helped by a prefix cache. Generation is greedy; tokens are counted by
the server's own usage, so a model that stops early makes a shorter run, not a faster one.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench.client import Endpoint, HttpError, Reply
from bench.process import Memory, Server
from bench.prompts import long_prompt, story_prompt

LONG_PROMPT_TOKENS = 512
_CALIBRATION_WORDS = 200
_POLL_SECONDS = 0.002
_START_SECONDS = 120.0


class Startup(msgspec.Struct, frozen=True):
    """From exec; `first_token_seconds` is of a request sent as soon as /health answered 200, repeated while 503."""

    healthy_seconds: float
    first_token_seconds: float


class Prefill(msgspec.Struct, frozen=True):
    """Time to first token of one long prompt on an idle server."""

    prompt_tokens: int
    first_token_seconds: float


class Decode(msgspec.Struct, frozen=True):
    """Streams that start together; the wall time is from the first request to the last token, prefill included."""

    num_streams: int
    completion_tokens: list[int]
    wall_seconds: float
    tokens_per_second: float
    worst_gap_seconds: float
    cpu_seconds: float | None


class Join(msgspec.Struct, frozen=True):
    """A long prompt arrives while one stream runs: what each of the two notices."""

    prompt_tokens: int
    first_token_seconds: float
    running_worst_gap_seconds: float


class Contention(msgspec.Struct, frozen=True):
    """The same decode with the machine to itself and beside a process that wants one core."""

    num_streams: int
    quiet_tokens_per_second: float
    contended_tokens_per_second: float


class Round(msgspec.Struct, frozen=True):
    """Everything about one server in one round; None where the server was not started by us or it was not asked for."""

    server: str
    number: int
    startup: Startup | None
    prefills: list[Prefill]
    decodes: list[Decode]
    join: Join
    contentions: list[Contention]
    memory: Memory | None
    cpu_seconds: float | None


class Bench:
    """One round on one server. `server` is None for one that somebody else started."""

    def __init__(self, name: str, number: int, endpoint: Endpoint, server: Server | None, max_tokens: int) -> None:
        self._name, self._number = name, number
        self._endpoint, self._server = endpoint, server
        self._max_tokens = max_tokens
        self._num_long_words = 0

    async def run(self, num_streams: list[int], contend: bool) -> Round:
        startup = await self.startup()
        await self._warm_up()
        prefills = [await self._prefill(number) for number in range(3)]
        decodes = [await self.decode(count, "decode", self._max_tokens) for count in num_streams]
        join = await self._join()
        contentions = [await self._contention(count) for count in num_streams[:2]] if contend else []
        memory = self._server.memory() if self._server else None
        cpu = self._cpu_seconds()
        return Round(self._name, self._number, startup, prefills, decodes, join, contentions, memory, cpu)

    async def startup(self) -> Startup | None:
        if self._server is None:
            return None
        while not await self._endpoint.is_healthy():
            await self._wait()
        healthy_at = time.perf_counter()
        reply = await self._first_reply()
        exec_at = self._server.exec_at
        return Startup(healthy_at - exec_at, reply.arrived_at[0] - exec_at)

    async def _first_reply(self) -> Reply:
        while True:
            try:
                return await self._endpoint.complete("Hello", 4)
            except HttpError as error:
                if error.status != 503:
                    raise
            await self._wait()

    async def _wait(self) -> None:
        assert self._server is not None
        self._server.check_alive()
        if time.perf_counter() - self._server.exec_at > _START_SECONDS:
            sys.exit(f"bench: {self._name} did not answer within {_START_SECONDS:.0f} s")
        await asyncio.sleep(_POLL_SECONDS)

    async def _warm_up(self) -> None:
        """Also learns how many words make the long prompt."""
        reply = await self._endpoint.complete(long_prompt(_CALIBRATION_WORDS, self._seed("warm-up")), 4)
        self._num_long_words = round(LONG_PROMPT_TOKENS * _CALIBRATION_WORDS / reply.prompt_tokens)

    async def _prefill(self, number: int) -> Prefill:
        reply = await self._endpoint.complete(self._long_prompt(f"prefill {number}"), 4)
        return Prefill(reply.prompt_tokens, reply.first_token_seconds)

    async def decode(self, count: int, label: str, max_tokens: int) -> Decode:
        prompts = [story_prompt(self._seed(f"{label} {count} {number}")) for number in range(count)]
        cpu = self._cpu_seconds()
        began = time.perf_counter()
        replies = await asyncio.gather(*(self._endpoint.complete(prompt, max_tokens) for prompt in prompts))
        wall = max(reply.arrived_at[-1] for reply in replies) - began
        tokens = [reply.completion_tokens for reply in replies]
        spent = None if cpu is None else (self._cpu_seconds() or 0.0) - cpu
        worst = max(reply.worst_gap_seconds for reply in replies)
        return Decode(count, tokens, wall, sum(tokens) / wall, worst, spent)

    async def _join(self) -> Join:
        running = asyncio.create_task(self._endpoint.complete(story_prompt(self._seed("join")), self._max_tokens))
        await asyncio.sleep(0.2)
        joiner = await self._endpoint.complete(self._long_prompt("join"), 4)
        gap = (await running).worst_gap_seconds
        return Join(joiner.prompt_tokens, joiner.first_token_seconds, gap)

    async def _contention(self, count: int) -> Contention:
        """Twice the tokens of a plain decode, so that a server which adapts has the time to."""
        quiet = await self.decode(count, "quiet", 2 * self._max_tokens)
        with rival():
            contended = await self.decode(count, "contended", 2 * self._max_tokens)
        return Contention(count, quiet.tokens_per_second, contended.tokens_per_second)

    def _long_prompt(self, label: str) -> str:
        return long_prompt(self._num_long_words, self._seed(label))

    def _seed(self, label: str) -> str:
        return f"{label} of round {self._number}"

    def _cpu_seconds(self) -> float | None:
        return self._server.cpu_seconds() if self._server else None


@contextmanager
def rival() -> Iterator[None]:
    """Another process that keeps core 0 busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        os.sched_setaffinity(process.pid, {min(os.sched_getaffinity(0))})
        yield
    finally:
        process.kill()
        process.wait()
