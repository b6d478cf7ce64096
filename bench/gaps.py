"""`python -m bench.gaps`: how smooth running streams are while prompts join, and how long those wait for their first
token. A table to stderr, JSON to stdout.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import msgspec

from bench import report
from bench.__main__ import rotated
from bench.client import Endpoint, Reply
from bench.peers import MODEL, named
from bench.process import Server
from bench.prompts import long_prompt, story_prompt

_CALIBRATION_WORDS = 200
_SETTLE_TOKENS = 8


class Scenario(msgspec.Struct, frozen=True):
    """So many prompts of about so many tokens arrive at once while so many streams run."""

    name: str
    num_streams: int
    num_joiners: int
    prompt_tokens: int


SCENARIOS = [
    Scenario("a long prompt joins 1 stream", 1, 1, 1512),
    Scenario("a long prompt joins 4 streams", 4, 1, 1512),
    Scenario("8 short prompts join 4 streams", 4, 8, 100),
]


class Joined(msgspec.Struct, frozen=True):
    """What came of one scenario. `alone_seconds` is the time to the first token of such a prompt on the idle server,
    `plain_gap_seconds` the median gap of the streams before the others came. `num_ended` streams were over before all
    joiners had begun to answer: then the worst gap may be too small.
    """

    server: str
    round: int
    scenario: Scenario
    prompt_tokens: list[int]
    alone_seconds: float
    first_token_seconds: list[float]
    plain_gap_seconds: float
    worst_gap_seconds: float
    num_ended: int


class Bench:
    """One scenario after the other on one server, in one round. No prompt is used twice on a server."""

    def __init__(self, name: str, number: int, endpoint: Endpoint) -> None:
        self._name, self._number = name, number
        self._endpoint = endpoint
        self._words_per_token = 1.0

    async def run(self, scenario: Scenario) -> Joined:
        warm_up = await self._endpoint.complete(self._long(_CALIBRATION_WORDS, f"{scenario.name} warm-up"), 4)
        self._words_per_token = _CALIBRATION_WORDS / warm_up.prompt_tokens
        alone = await self._endpoint.complete(self._prompt(scenario, "alone"), 2)
        streams = [Reply(time.perf_counter()) for _ in range(scenario.num_streams)]
        stories = [story_prompt(f"{scenario.name} {self._number} {number}") for number in range(scenario.num_streams)]
        running = [
            # Longer than any test: it is cut off.
            asyncio.create_task(self._endpoint.stream(story, 4096, stream))
            for story, stream in zip(stories, streams, strict=True)
        ]
        try:
            while any(len(stream.arrived_at) < _SETTLE_TOKENS for stream in streams):
                await asyncio.sleep(0.01)
                self._check(running)
            prompts = [self._prompt(scenario, str(number)) for number in range(scenario.num_joiners)]
            joined_at = time.perf_counter()
            # Two tokens, as an answer of one may come with its end.
            joiners = await asyncio.gather(*(self._endpoint.complete(prompt, 2) for prompt in prompts))
            num_ended = sum(task.done() for task in running)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return Joined(
            server=self._name,
            round=self._number,
            scenario=scenario,
            prompt_tokens=[joiner.prompt_tokens for joiner in joiners],
            alone_seconds=alone.first_token_seconds,
            first_token_seconds=[joiner.first_token_seconds for joiner in joiners],
            plain_gap_seconds=median(gap for stream in streams for gap in _gaps(stream, joined_at)),
            worst_gap_seconds=max(stream.worst_gap_since(joined_at) for stream in streams),
            num_ended=num_ended,
        )

    def _check(self, running: list["asyncio.Task[None]"]) -> None:
        """A stream that ends before anything has joined says why, or said too little."""
        for task in running:
            if task.done():
                task.result()
                sys.exit(f"bench: a stream of {self._name} ended after fewer than {_SETTLE_TOKENS} tokens")

    def _prompt(self, scenario: Scenario, label: str) -> str:
        return self._long(round(scenario.prompt_tokens * self._words_per_token), f"{scenario.name} {label}")

    def _long(self, num_words: int, label: str) -> str:
        return long_prompt(num_words, f"{label} of round {self._number}")


def _gaps(stream: Reply, end: float) -> list[float]:
    times = [time for time in stream.arrived_at if time <= end]
    return [later - earlier for earlier, later in zip(times, times[1:], strict=False)]


def main() -> None:
    options = arguments()
    targets = dict(named(spec) for spec in options.server)
    results = asyncio.run(measure(targets, options))
    print(table(list(targets), results), file=sys.stderr)
    report.write({"model": options.model, "servers": report.public(targets), "results": results}, options.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gaps", description=__doc__)
    parser.add_argument("--server", action="append", metavar="NAME[=COMMAND]", required=True, help="or URL; see bench")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, metavar="FILE")
    return parser.parse_args()


async def measure(targets: dict[str, str], options: argparse.Namespace) -> list[Joined]:
    """Servers all run, and take turns: on a machine that drifts only neighbours compare."""
    results: list[Joined] = []
    with tempfile.TemporaryDirectory() as logs, ExitStack() as servers:
        urls = {}
        for name, target in targets.items():
            urls[name] = target
            if not target.startswith("http://"):
                server = servers.enter_context(Server(target, Path(logs) / f"{name}.log"))
                urls[name] = server.url
                while await Endpoint(server.url, options.model).status("/health") != 200:
                    server.check_alive()
                    await asyncio.sleep(0.05)
        for number in range(1, options.rounds + 1):
            for scenario in SCENARIOS:
                for name in rotated(list(targets), number - 1):
                    print(
                        f"bench: round {number} of {options.rounds}, {name}: {scenario.name}",
                        file=sys.stderr,
                        flush=True,
                    )
                    bench = Bench(name, number, Endpoint(urls[name], options.model))
                    results.append(await bench.run(scenario))
    return results


def table(names: list[str], results: list[Joined]) -> str:
    """Medians over the rounds, ms."""
    lines = [
        f"{'medians, ms':34}{'':14}{'plain gap':>10}{'worst gap':>10}{'alone':>8}{'first token: mean':>19}{'last':>8}"
    ]
    for scenario in SCENARIOS:
        for name in names:
            found = [each for each in results if each.server == name and each.scenario == scenario]
            figures = [
                median(each.plain_gap_seconds for each in found),
                median(each.worst_gap_seconds for each in found),
                median(each.alone_seconds for each in found),
                median(sum(each.first_token_seconds) / len(each.first_token_seconds) for each in found),
                median(max(each.first_token_seconds) for each in found),
            ]
            cells = [f"{figure * 1e3:.0f}" for figure in figures]
            widths = (10, 10, 8, 19, 8)
            row = "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
            lines.append(f"{scenario.name:34}{name:14}{row}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
