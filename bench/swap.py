"""`python -m bench.swap`: what requests notice when a loaded model's file is replaced under a steady load of streams.

A table to stderr, JSON to stdout. How long a request waited for its model is what the server says of it (`load_ms`).
"""

import argparse
import asyncio
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench import report
from bench.client import Endpoint, HttpError, Reply
from bench.peers import MODEL_FILE
from bench.process import Server
from bench.prompts import story_prompt

_MODEL = "swapped"
_STREAM_TOKENS = 48
_SETTLE_SECONDS = 2.0
_START_SECONDS = 120.0


class Probe(msgspec.Struct, frozen=True):
    """A short request, one after the other: when it was sent, counted from the replacement of the file; how long it
    waited for its model; and how long its answer took."""

    sent_at_seconds: float
    wait_ms: float
    seconds: float


class Swapped(msgspec.Struct, frozen=True):
    """One replacement. `switch_seconds` is from the new file's appearance to the answer that it is in use, and
    `worst_gap_seconds` the longest silence of a stream meanwhile."""

    round: int
    switch_seconds: float
    num_streams_ended: int
    num_failed: int
    worst_gap_seconds: float
    probes: list[Probe]


class Load:
    """So many streams at all times, and probes beside them. Counts what fails."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.num_ended = 0
        self.failures: list[str] = []
        self.streams: list[Reply] = []
        self.probes: list[tuple[float, float, float]] = []
        self._endpoint = endpoint
        self._is_over = False

    async def run(self, num_streams: int) -> None:
        await asyncio.gather(self._probe(), *(self._stream(number) for number in range(num_streams)))

    def end(self) -> None:
        """Nothing new; what runs comes to its end."""
        self._is_over = True

    async def _stream(self, number: int) -> None:
        while not self._is_over:
            reply = Reply(time.perf_counter())
            self.streams.append(reply)
            prompt = story_prompt(f"{number} of {len(self.streams)}")
            try:
                await self._endpoint.stream(prompt, _STREAM_TOKENS, reply)
                if not reply.completion_tokens:
                    self.failures.append("a stream ended without its usage")
            except (HttpError, OSError, EOFError) as error:
                self.failures.append(repr(error))
            self.num_ended += 1

    async def _probe(self) -> None:
        while not self._is_over:
            sent_at = time.perf_counter()
            body = {"model": _MODEL, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
            try:
                timings = (await self._endpoint.post("/v1/completions", body))["timings"]
                self.probes.append((sent_at, timings["load_ms"], time.perf_counter() - sent_at))
            except (HttpError, OSError, EOFError) as error:
                self.failures.append(repr(error))


async def swapped(number: int, endpoint: Endpoint, load: Load, file: Path, source: Path) -> Swapped:
    """The file is replaced while the load goes on."""
    await asyncio.sleep(_SETTLE_SECONDS)
    first_probe, num_ended, num_failed = len(load.probes), load.num_ended, len(load.failures)
    fresh = file.with_suffix(".new")
    shutil.copyfile(source, fresh)
    replaced_at = time.perf_counter()
    os.replace(fresh, file)
    await endpoint.post(f"/api/models/{_MODEL}/load", {})
    switch_seconds = time.perf_counter() - replaced_at
    await asyncio.sleep(_SETTLE_SECONDS)
    return Swapped(
        round=number,
        switch_seconds=switch_seconds,
        num_streams_ended=load.num_ended - num_ended,
        num_failed=len(load.failures) - num_failed,
        worst_gap_seconds=max(stream.worst_gap_since(replaced_at) for stream in load.streams),
        probes=[Probe(at - replaced_at, wait, seconds) for at, wait, seconds in load.probes[first_probe:]],
    )


async def measure(options: argparse.Namespace, folder: Path) -> list[Swapped]:
    file, source = folder / "models" / f"{_MODEL}.gguf", Path(options.model)
    file.parent.mkdir()
    shutil.copyfile(source, file)
    command = [*shlex.split(options.server), "--model-dirs", str(file.parent), "--preload", _MODEL]
    with Server(shlex.join(command), folder / "server.log") as server:
        endpoint = Endpoint(server.url, _MODEL)
        deadline = time.monotonic() + _START_SECONDS
        while await endpoint.status("/readyz") != 200:
            server.check_alive()
            if time.monotonic() > deadline:
                sys.exit("bench: the server is not ready")
            await asyncio.sleep(0.05)
        load = Load(endpoint)
        running = asyncio.create_task(load.run(options.streams))
        results = []
        for number in range(1, options.rounds + 1):
            results.append(await swapped(number, endpoint, load, file, source))
        load.end()
        await running
        for failure in load.failures:
            print(f"bench: failed: {failure}", file=sys.stderr)
        return results


def waits(result: Swapped, *, during: bool) -> list[float]:
    """How long probes waited that were sent while the switch went on, or before and after it; ms."""
    return [
        probe.wait_ms
        for probe in result.probes
        if during == (-probe.seconds <= probe.sent_at_seconds <= result.switch_seconds)
    ]


def table(results: list[Swapped]) -> str:
    head = (
        f"{'round':>5}{'switch s':>10}{'streams':>9}{'failed':>8}{'worst gap ms':>14}{'wait ms: median':>17}{'max':>8}"
    )
    lines = [head + f"{'without switch: max':>21}"]
    for each in results:
        during, without = waits(each, during=True), waits(each, during=False)
        lines.append(
            f"{each.round:5}{each.switch_seconds:10.2f}{each.num_streams_ended:9}{each.num_failed:8}"
            f"{each.worst_gap_seconds * 1e3:14.0f}{median(during):17.2f}{max(during):8.2f}{max(without):21.2f}"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    default = shlex.join([sys.executable, "-m", "shimmy", "serve", "--bind", "127.0.0.1:{port}", "--parallel", "12"])
    parser = argparse.ArgumentParser(prog="python -m bench.swap", description=__doc__)
    parser.add_argument("--server", metavar="COMMAND", default=default, help="{port} stands for a free port")
    parser.add_argument("--model", metavar="FILE", default=MODEL_FILE, help="copied, and replaced by copies")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, metavar="FILE")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(measure(options, Path(folder)))
    print(table(results), file=sys.stderr)
    document: dict[str, Any] = {"servers": report.public({"shimmy": options.server}), "streams": options.streams}
    report.write(document | {"switches": results}, options.output)
    if any(each.num_failed for each in results):
        sys.exit("bench: requests failed")


if __name__ == "__main__":
    main()
