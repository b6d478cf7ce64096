"""`python -m bench.footprint`: servers that do nothing yet: how soon they answer, the memory that they keep, the files
that they need. Started in turns; a table to stderr, JSON to stdout.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import msgspec

from bench import report
from bench.__main__ import rotated
from bench.client import Endpoint
from bench.peers import IDLE, files, named
from bench.process import Memory, Server

_POLL_SECONDS = 0.002
_START_SECONDS = 120.0


class Start(msgspec.Struct, frozen=True):
    """One start, without a request. `cpu_seconds` is what the idle time after it took."""

    server: str
    round: int
    healthy_seconds: float
    memory: Memory
    idle_seconds: float
    cpu_seconds: float


class Files(msgspec.Struct, frozen=True):
    num_files: int
    num_bytes: int


def main() -> None:
    options = arguments()
    targets = dict(named(spec, IDLE) for spec in options.server or IDLE)
    starts: list[Start] = []
    with tempfile.TemporaryDirectory() as logs:
        for number in range(1, options.rounds + 1):
            for name in rotated(list(targets), number - 1):
                print(f"bench: round {number} of {options.rounds}, {name}", file=sys.stderr, flush=True)
                log = Path(logs) / f"{name}.log"
                starts.append(asyncio.run(start(name, targets[name], number, options.idle_seconds, log)))
    sizes = {name: size for name in targets if (size := measured(files(name)))}
    print(table(list(targets), starts, sizes), file=sys.stderr)
    report.write({"servers": report.public(targets), "starts": starts, "sizes": sizes}, options.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.footprint", description=__doc__)
    parser.add_argument(
        "--server",
        action="append",
        metavar="NAME[=COMMAND]",
        help=f"what to start, without a model if possible; see bench (default: {', '.join(IDLE)})",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--idle-seconds", type=float, default=3.0, help="before memory is read (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE")
    return parser.parse_args()


async def start(name: str, command: str, number: int, idle_seconds: float, log: Path) -> Start:
    with Server(command, log) as server:
        endpoint = Endpoint(server.url, "")
        while not await endpoint.is_healthy():
            server.check_alive()
            if time.perf_counter() - server.exec_at > _START_SECONDS:
                sys.exit(f"bench: {name} did not answer within {_START_SECONDS:.0f} s")
            await asyncio.sleep(_POLL_SECONDS)
        healthy_seconds = time.perf_counter() - server.exec_at
        cpu = server.cpu_seconds()
        await asyncio.sleep(idle_seconds)
        return Start(name, number, healthy_seconds, server.memory(), idle_seconds, server.cpu_seconds() - cpu)


def measured(paths: list[Path]) -> Files | None:
    return Files(len(paths), sum(path.stat().st_size for path in paths)) if paths else None


def table(names: list[str], starts: list[Start], sizes: dict[str, Files]) -> str:
    lines = [f"{'':24}{'exec to 200, ms: min / median':>32}{'RSS, MB: median':>18}{'files, MB':>12}"]
    for name in names:
        found = [each for each in starts if each.server == name]
        times = [each.healthy_seconds * 1e3 for each in found]
        memory = median(each.memory.rss for each in found) / 1e6
        size = f"{sizes[name].num_bytes / 1e6:.1f}" if name in sizes else "-"
        lines.append(f"{name:24}{f'{min(times):.0f} / {median(times):.0f}':>32}{memory:>18.1f}{size:>12}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
