"""`python -m bench.pairs`: two servers that both run, decoding in turns, A B B A. A table to stderr, JSON to stdout.

A machine that drifts changes both runs of a pair alike, so their ratio holds where single figures do not.
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from statistics import median

import msgspec

from bench import report
from bench.client import Endpoint
from bench.measure import Bench, Decode, rival
from bench.peers import MODEL, named
from bench.process import Server


class Pair(msgspec.Struct, frozen=True):
    """One decode of each server, one right after the other; `ratio` compares their tokens per second."""

    num_streams: int
    contended: bool
    first: Decode
    second: Decode
    ratio: float


def main() -> None:
    options = arguments()
    targets = dict(named(spec) for spec in options.server)
    if len(targets) != 2:
        sys.exit("bench: --server is needed twice, with two names")
    pairs = asyncio.run(measure(targets, options))
    print(table(list(targets), pairs), file=sys.stderr)
    document = {
        "max_tokens": options.max_tokens,
        "servers": report.public(targets),
        "pairs": pairs,
    }
    report.write(document, options.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.pairs", description=__doc__)
    parser.add_argument("--server", action="append", metavar="NAME[=COMMAND]", required=True, help="twice; see bench")
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--contend", action="store_true", help="decode beside a process that keeps one core busy")
    parser.add_argument("--output", type=Path, metavar="FILE")
    return parser.parse_args()


async def measure(targets: dict[str, str], options: argparse.Namespace) -> list[Pair]:
    with tempfile.TemporaryDirectory() as logs, ExitStack() as servers:
        benches = []
        for name, target in targets.items():
            server = servers.enter_context(Server(target, Path(logs) / f"{name}.log"))
            benches.append(Bench(name, 0, Endpoint(server.url, options.model), server, options.max_tokens))
            await benches[-1].startup()
        with rival() if options.contend else nullcontext():
            return [
                await pair(benches, count, number, options)
                for count in options.streams
                for number in range(options.pairs)
            ]


async def pair(benches: list[Bench], count: int, number: int, options: argparse.Namespace) -> Pair:
    order = benches if number % 2 == 0 else benches[::-1]
    found = {}
    for bench in order:
        found[bench] = await bench.decode(count, f"pair {number}", options.max_tokens)
    first, second = (found[bench] for bench in benches)
    return Pair(count, options.contend, first, second, first.tokens_per_second / second.tokens_per_second)


def table(names: list[str], pairs: list[Pair]) -> str:
    lines = [f"{'':12}{names[0]:>14}{names[1]:>14}   ratio: min / median / max   (tok/s: medians)"]
    for count in sorted({each.num_streams for each in pairs}):
        chosen = [each for each in pairs if each.num_streams == count]
        ours, theirs = (
            median(getattr(each, side).tokens_per_second for each in chosen) for side in ("first", "second")
        )
        ratios = [each.ratio for each in chosen]
        spread = f"{min(ratios):.2f} / {median(ratios):.2f} / {max(ratios):.2f}"
        lines.append(f"{count:>3} streams {ours:>14.1f}{theirs:>14.1f}   {spread:>26}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
