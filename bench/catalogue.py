"""How long it takes to list many models, and one more: `python -m bench.catalogue [--models 1000]`.

Small GGUF files in a temporary folder. Listed by a catalogue that knows nothing ("cold"), by one that has the cached
headers on disk, as every new process has ("warm"), by one that has listed them before ("again"), and by the command
`shimmy list` with the cached headers ("command", with the start of the program). Then models come into folders of many
others, which are watched, and go again: see `bench/arrivals.py`. A table to stderr, JSON to stdout or a file.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec

from bench import report
from bench.arrivals import Arrival, arrivals
from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from tests.fakes.gguf_writer import model

FIGURES = ("cold", "warm", "again", "command")
SPREAD: tuple[tuple[str, Callable[[list[float]], float]], ...] = (("least", min), ("median", median), ("most", max))


class Time(NamedTuple):
    """Of the processor: other programs make it hardly longer."""

    seconds: float
    cpu_seconds: float


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder) / "models", options.models)
        rounds = [measured(Path(folder), options.models) for _ in range(options.rounds)]
    seen = [each for count in options.among for each in arrivals_among(count, options.arrivals)]
    for figure in FIGURES if rounds else ():
        best = [1e3 * min(values) for values in zip(*(each[figure] for each in rounds), strict=True)]
        print(f"{figure}: {best[0]:.0f} ms at best, {best[1]:.0f} ms of processor time", file=sys.stderr)
    for figure, taken in by_figure(seen).items():
        shown = ", ".join(f"{name} {1e3 * of(taken):.0f} ms" for name, of in SPREAD)
        print(f"{figure}: {shown}", file=sys.stderr)
    listings = [{figure: taken._asdict() for figure, taken in each.items()} for each in rounds]
    what = {"models": options.models, "listings": listings, "arrivals": msgspec.to_builtins(seen)}
    report.write({"servers": {"shimmy": "shimmy list"}} | what, options.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.catalogue", description=__doc__)
    parser.add_argument("--models", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="how often they are listed (default: %(default)s)")
    among = "among how many models others come and go, if they do (default: %(default)s)"
    parser.add_argument("--among", type=int, nargs="*", default=[1000, 10000], help=among)
    parser.add_argument("--arrivals", type=int, default=7, help="how often they do (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON document there, not to stdout")
    return parser.parse_args()


def arrivals_among(count: int, times: int) -> list[Arrival]:
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), count)
        return arrivals(Path(folder), count, times)


def by_figure(seen: list[Arrival]) -> dict[str, list[float]]:
    """Seconds."""
    figures: dict[str, list[float]] = {}
    for each in seen:
        figures.setdefault(each.figure, []).append(each.seconds)
    return figures


def write_models(folder: Path, count: int) -> None:
    """Old enough to be taken for whole at once."""
    for number in range(count):
        path = model(f"Model {number}", general__file_type=15).write(folder / f"model-{number:05}.gguf")
        os.utime(path, (1000 + number, 1000 + number))


def measured(folder: Path, count: int) -> dict[str, Time]:
    """Seconds for each of `FIGURES`."""
    cache = folder / "cache" / "shimmy" / "headers"
    cache.unlink(missing_ok=True)

    def fresh() -> Catalog:
        return Catalog([Folder("models folder", str(folder / "models"))], str(cache))

    cold = timed(lambda: listed(fresh(), count))
    catalog = fresh()
    warm, again = (timed(lambda: listed(catalog, count)) for _ in range(2))
    return {"cold": cold, "warm": warm, "again": again, "command": timed(lambda: run_command(folder, count))}


def listed(catalog: Catalog, count: int) -> None:
    catalog.refresh()
    models = catalog.models()
    if len(models) != count or any(each.invalid for each in models):
        sys.exit(f"bench: {len(models)} models of {count} were listed, not all of them sound")


def run_command(folder: Path, count: int) -> None:
    environment = {"HOME": str(folder), "PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(folder / "cache")}
    command = [sys.executable, "-m", "shimmy", "list", "--short", "--model-dirs", str(folder / "models")]
    shown = subprocess.run(command, env=environment, cwd=Path(__file__).parents[1], capture_output=True, check=True)
    if len(shown.stdout.splitlines()) < count:
        sys.exit(f"bench: shimmy list shows fewer models than {count}")


def timed(work: Callable[[], None]) -> Time:
    """With what child processes take that end meanwhile."""
    began = time.perf_counter(), _cpu_seconds()
    work()
    return Time(time.perf_counter() - began[0], _cpu_seconds() - began[1])


def _cpu_seconds() -> float:
    used = os.times()
    return time.process_time() + used.children_user + used.children_system


if __name__ == "__main__":
    main()
