"""`python -m bench.prefixes`: what prompts that begin alike save. Many clients come at once with a system prompt that
is new to the server; one comes back with a prompt that is not. A table to stderr, JSON to stdout.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from bench import report
from bench.__main__ import rotated
from bench.client import Endpoint, Reply
from bench.measure import Bench
from bench.peers import LASTING, MODEL, SERVING, named
from bench.process import Server
from bench.prompts import long_prompt, story_prompt

_CALIBRATION_WORDS = 200


class Crowd(msgspec.Struct, frozen=True):
    """Clients that came at once with one system prompt; `all_seconds` is when the last had its first token."""

    server: str
    round: int
    prompt_tokens: list[int]
    cached_tokens: list[int | None]
    first_token_seconds: list[float]
    all_seconds: float


class Return(msgspec.Struct, frozen=True):
    """Times to the first token of a prompt that nobody has seen, and of one with the same beginning after it;
    `restarted_seconds` is of a third one, by then the server has been stopped and started again."""

    server: str
    round: int
    prompt_tokens: list[int]
    cached_tokens: list[int | None]
    cold_seconds: float
    warm_seconds: float
    restarted_seconds: float | None = None


class Client:
    """One server in one round; no system prompt is used twice on a server."""

    def __init__(self, name: str, number: int, endpoint: Endpoint, options: argparse.Namespace) -> None:
        self._name, self._number = name, number
        self._endpoint = endpoint
        self._options = options

    async def crowd(self) -> Crowd:
        system = await self.system("crowd")
        clients = range(self._options.clients)
        prompts = [f"{system}\n\n{story_prompt(f'{self._number} {client}')}" for client in clients]
        replies = await asyncio.gather(*(self._endpoint.complete(each, self._options.max_tokens) for each in prompts))
        began = min(reply.sent_at for reply in replies)
        return Crowd(
            server=self._name,
            round=self._number,
            prompt_tokens=[reply.prompt_tokens for reply in replies],
            cached_tokens=[reply.cached_tokens for reply in replies],
            first_token_seconds=[reply.first_token_seconds for reply in replies],
            all_seconds=max(reply.arrived_at[0] for reply in replies) - began,
        )

    async def comes_back(self) -> Return:
        system = await self.system("return")
        return self.returned([await self.ask(system, visit) for visit in ("first", "second")])

    def returned(self, replies: list[Reply]) -> Return:
        """Of two visits, or of three."""
        times = [reply.first_token_seconds for reply in replies]
        tokens, cached = [reply.prompt_tokens for reply in replies], [reply.cached_tokens for reply in replies]
        return Return(self._name, self._number, tokens, cached, *times)

    async def ask(self, system: str, visit: str) -> Reply:
        return await self._endpoint.complete(f"{system}\n\n{story_prompt(f'{self._number} {visit}')}", 4)

    async def system(self, label: str) -> str:
        """A prompt of as many tokens as asked for, found by the server's own count of another one."""
        words = long_prompt(_CALIBRATION_WORDS, f"{label} calibration {self._number}")
        counted = await self._endpoint.complete(words, 4)
        num_words = round(self._options.prompt_tokens * _CALIBRATION_WORDS / counted.prompt_tokens)
        return long_prompt(num_words, f"{label} {self._number}")


def main() -> None:
    options = arguments()
    targets = dict(named(spec, LASTING if options.restart else SERVING) for spec in options.server)
    with tempfile.TemporaryDirectory() as logs, tempfile.TemporaryDirectory() as caches:
        if options.restart:
            # What an earlier measurement left in the user's own would make its prompts warm.
            os.environ["XDG_CACHE_HOME"] = caches
            returns, crowds = asyncio.run(restarts(targets, options, Path(logs))), list[Crowd]()
        else:
            returns, crowds = asyncio.run(measure(targets, options, Path(logs)))
    print(table(list(targets), crowds, returns), file=sys.stderr)
    document = {"model": options.model, "max_tokens": options.max_tokens, "servers": report.public(targets)}
    report.write({**document, "crowds": crowds, "returns": returns}, options.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.prefixes", description=__doc__)
    parser.add_argument("--server", action="append", metavar="NAME[=COMMAND]", required=True, help="see bench")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--prompt-tokens", type=int, default=1000, help="of the system prompt (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=16, help="of each client of the crowd (default: %(default)s)")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="only the prompt that comes back, and once more after a restart",
    )
    parser.add_argument("--output", type=Path, metavar="FILE")
    return parser.parse_args()


async def measure(targets: dict[str, str], options: argparse.Namespace, logs: Path) -> tuple[list[Return], list[Crowd]]:
    """Servers all run, and take turns: on a machine that drifts only neighbours compare."""
    crowds: list[Crowd] = []
    returns: list[Return] = []
    with ExitStack() as running:
        endpoints = {}
        for name, target in targets.items():
            server = running.enter_context(Server(target, logs / f"{name}.log"))
            endpoints[name] = await started(name, server, options.model)
        for number in range(1, options.rounds + 1):
            for name in rotated(list(targets), number - 1):
                tell(number, options.rounds, name, "a prompt comes back")
                returns.append(await Client(name, number, endpoints[name], options).comes_back())
            for name in rotated(list(targets), number - 1):
                tell(number, options.rounds, name, f"{options.clients} clients with one system prompt")
                crowds.append(await Client(name, number, endpoints[name], options).crowd())
    return returns, crowds


async def restarts(targets: dict[str, str], options: argparse.Namespace, logs: Path) -> list[Return]:
    found = []
    for number in range(1, options.rounds + 1):
        for name in rotated(list(targets), number - 1):
            tell(number, options.rounds, name, "a prompt comes back, and after a restart")
            log = logs / f"{name}.log"
            with Server(targets[name], log) as server:
                before = Client(name, number, await started(name, server, options.model), options)
                system = await before.system("restart")
                replies = [await before.ask(system, visit) for visit in ("first", "second")]
            with Server(targets[name], log) as server:
                after = Client(name, number, await started(name, server, options.model), options)
                found.append(after.returned([*replies, await after.ask(system, "third")]))
    return found


async def started(name: str, server: Server, model: str) -> Endpoint:
    """Once it has answered a first request, so that nothing of its start is in a figure."""
    endpoint = Endpoint(server.url, model)
    await Bench(name, 0, endpoint, server, 0).startup()
    return endpoint


def tell(number: int, rounds: int, name: str, what: str) -> None:
    print(f"bench: round {number} of {rounds}, {name}: {what}", file=sys.stderr, flush=True)


def table(names: list[str], crowds: list[Crowd], returns: list[Return]) -> str:
    """Medians over the rounds, ms."""
    lines = [f"{'medians, ms':26}{'all of the crowd':>18}{'cold':>8}{'warm':>8}{'restarted':>11}{'warm : cold':>13}"]
    for name in names:
        everyone = [each.all_seconds for each in crowds if each.server == name]
        visits = [each for each in returns if each.server == name]
        restarted = [each.restarted_seconds for each in visits if each.restarted_seconds is not None]
        cells = [
            _milliseconds(everyone),
            _milliseconds([each.cold_seconds for each in visits]),
            _milliseconds([each.warm_seconds for each in visits]),
            _milliseconds(restarted),
            f"{median(each.warm_seconds / each.cold_seconds for each in visits):.3f}",
        ]
        row = "".join(cell.rjust(width) for cell, width in zip(cells, (18, 8, 8, 11, 13), strict=True))
        lines.append(f"{name:26}{row}")
    return "\n".join(lines)


def _milliseconds(seconds: list[float]) -> str:
    return f"{median(seconds) * 1e3:.0f}" if seconds else "-"


if __name__ == "__main__":
    main()
