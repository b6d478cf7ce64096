"""`python -m bench`: measures one server, or several in turns; a table goes to stderr, a JSON document to stdout."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import report
from bench.client import Endpoint
from bench.measure import Bench, Round
from bench.peers import MODEL, SERVING, named
from bench.process import Server


def main() -> None:
    options = arguments()
    targets = dict(named(spec) for spec in options.server or ["shimmy"])
    rounds: list[Round] = []
    with tempfile.TemporaryDirectory() as logs:
        for number in range(1, options.rounds + 1):
            for name in rotated(list(targets), number - 1):
                print(f"bench: round {number} of {options.rounds}, {name}", file=sys.stderr, flush=True)
                rounds.append(asyncio.run(measure(name, targets[name], number, options, Path(logs) / f"{name}.log")))
    publish(targets, rounds, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--server",
        action="append",
        metavar="NAME[=COMMAND]",
        help='what to measure; "{port}" in the command is a free port. An http:// URL instead of a command is a server '
        f"that runs already. Of {', '.join(SERVING)} the commands are known. Repeat it to compare: rounds alternate "
        "(default: shimmy).",
    )
    parser.add_argument("--model", default=MODEL, help="model id to ask for (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--max-tokens", type=int, default=96, help="of each decode stream (default: %(default)s)")
    parser.add_argument("--contend", action="store_true", help="also decode beside a process that keeps one core busy")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON document there, not to stdout")
    return parser.parse_args()


def rotated(names: list[str], by: int) -> list[str]:
    """Another one goes first each round, so that none always follows the same one."""
    start = by % len(names)
    return names[start:] + names[:start]


async def measure(name: str, target: str, number: int, options: argparse.Namespace, log: Path) -> Round:
    if target.startswith("http://"):
        bench = Bench(name, number, Endpoint(target, options.model), None, options.max_tokens)
        return await bench.run(options.streams, options.contend)
    with Server(target, log) as server:
        bench = Bench(name, number, Endpoint(server.url, options.model), server, options.max_tokens)
        return await bench.run(options.streams, options.contend)


def publish(targets: dict[str, str], rounds: list[Round], options: argparse.Namespace) -> None:
    figures = {name: report.metrics([each for each in rounds if each.server == name]) for name in targets}
    names = list(targets)
    ratios = report.ratios(figures[names[0]], figures[names[1]]) if len(names) > 1 else []
    print(report.table(figures, ratios), file=sys.stderr)
    document: dict[str, Any] = {
        "model": options.model,
        "max_tokens": options.max_tokens,
        "servers": report.public(targets),
        "figures": figures,
        "ratios": ratios,
        "rounds": rounds,
    }
    report.write(document, options.output)


if __name__ == "__main__":
    main()
