"""`python -m bench.embeddings`: how fast two servers make vectors of texts, in turns, A B B A. A table to stderr, JSON
to stdout.

The model is all-MiniLM-L6-v2, or the file that --model-file names.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack, aclosing
from pathlib import Path
from statistics import median

import msgspec

from bench import report
from bench.client import Endpoint, Session
from bench.peers import EMBEDDING
from bench.process import Server
from bench.prompts import long_prompt
from tests.models import minilm

PATH = "/v1/embeddings"


class Scenario(msgspec.Struct, frozen=True):
    """`num_clients` at once send `num_requests` each, one after the other, of so many texts of so many words."""

    name: str
    num_clients: int
    num_requests: int
    num_texts: int
    num_words: int


SCENARIOS = [
    Scenario("1 client, 1 text of 8 words", 1, 200, 1, 8),
    Scenario("16 clients, 1 text of 8 words", 16, 20, 1, 8),
    Scenario("1 client, 256 texts of 8 words", 1, 1, 256, 8),
    Scenario("1 client, 64 texts of 60 words", 1, 1, 64, 60),
    Scenario("2 clients, 4 texts of 400 words", 2, 1, 4, 400),
]


class Run(msgspec.Struct, frozen=True):
    """One scenario on one server; processor time is that of all of its processes."""

    tokens: int
    seconds: float
    cpu_seconds: float


class Pair(msgspec.Struct, frozen=True):
    """A run of each server, one right after the other; the ratios compare their tokens per second, and per second of
    processor time."""

    scenario: Scenario
    first: Run
    second: Run
    ratio: float
    cpu_ratio: float


def main() -> None:
    options = arguments()
    model = str(options.model_file or minilm.path())
    commands = {name: EMBEDDING[name](model, options.threads) for name in options.server}
    pairs = asyncio.run(measure(commands, options.rounds))
    print(table(list(commands), pairs), file=sys.stderr)
    document = {"model": Path(model).name, "servers": report.public(commands), "embeddings": pairs}
    report.write(document, options.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.embeddings", description=__doc__)
    names = list(EMBEDDING)
    parser.add_argument("--server", nargs=2, choices=names, default=names, help="default: %(default)s")
    parser.add_argument("--model-file", type=Path, metavar="FILE")
    parser.add_argument("--threads", type=int, help="of each server (default: one for each core)")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--output", type=Path, metavar="FILE")
    return parser.parse_args()


async def measure(commands: dict[str, str], num_rounds: int) -> list[Pair]:
    pairs: list[Pair] = []
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        servers = [
            stack.enter_context(Server(command, Path(logs) / f"{name}.log")) for name, command in commands.items()
        ]
        endpoints = [await _ready(server) for server in servers]
        for number in range(num_rounds):
            for scenario in SCENARIOS:
                print(f"bench: round {number + 1} of {num_rounds}, {scenario.name}", file=sys.stderr, flush=True)
                runs: dict[int, Run] = {}
                for each in (0, 1) if number % 2 == 0 else (1, 0):
                    for server in servers:
                        await server.rest()
                    runs[each] = await _run(scenario, endpoints[each], servers[each], number)
                pairs.append(_pair(scenario, runs[0], runs[1]))
    return pairs


async def _ready(server: Server) -> Endpoint:
    """Once the server has made a vector."""
    endpoint = Endpoint(server.url, "")
    while await endpoint.status("/health") != 200:
        server.check_alive()
        await asyncio.sleep(0.05)
    endpoint.model = await endpoint.first_model()
    await endpoint.post(PATH, {"model": endpoint.model, "input": "ready"})
    return endpoint


async def _run(scenario: Scenario, endpoint: Endpoint, server: Server, number: int) -> Run:
    async def client(which: int) -> int:
        tokens = 0
        async with aclosing(Session(endpoint)) as session:
            for request in range(scenario.num_requests):
                seed = f"{scenario.name} {number} {which} {request}"
                texts = [long_prompt(scenario.num_words, f"{seed} {text}") for text in range(scenario.num_texts)]
                body = {"model": endpoint.model, "input": texts, "encoding_format": "base64"}
                answer = await session.post(PATH, body)
                if len(answer["data"]) != len(texts):
                    sys.exit(f"bench: {len(answer['data'])} vectors of {len(texts)} texts")
                tokens += answer["usage"]["total_tokens"]
        return tokens

    cpu, began_at = server.cpu_seconds(), time.perf_counter()
    tokens = sum(await asyncio.gather(*map(client, range(scenario.num_clients))))
    return Run(tokens, time.perf_counter() - began_at, server.cpu_seconds() - cpu)


def _pair(scenario: Scenario, first: Run, second: Run) -> Pair:
    if first.tokens != second.tokens:
        sys.exit(f"bench: the servers count {first.tokens} and {second.tokens} tokens")
    # Processor time is counted in hundredths of a second.
    cpu_ratio = max(second.cpu_seconds, 0.01) / max(first.cpu_seconds, 0.01)
    return Pair(scenario, first, second, second.seconds / first.seconds, cpu_ratio)


def table(names: list[str], pairs: list[Pair]) -> str:
    """Tokens per second at best, and of the ratios the medians."""
    first, second = names
    lines = [f"{'tokens/s at best':36}{first:>14}{second:>14}{'ratio':>8}{'per CPU s':>11}"]
    for scenario in SCENARIOS:
        found = [pair for pair in pairs if pair.scenario == scenario]
        speeds = [
            max(run.tokens / run.seconds for run in runs)
            for runs in ([each.first for each in found], [each.second for each in found])
        ]
        ratio, cpu_ratio = median(each.ratio for each in found), median(each.cpu_ratio for each in found)
        lines.append(f"{scenario.name:36}{speeds[0]:14.0f}{speeds[1]:14.0f}{ratio:8.2f}{cpu_ratio:11.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
