"""What our patches of llama.cpp are worth: `python -m bench.kernels [MODEL.gguf]`, after `make peers`.

The same engine without a server, with our libraries and with those that llama-server was built with, which come from
the same source and options without the patches (build/patches). Processes take turns; a ratio is that of neighbours. A
table to stderr, JSON to stdout or a file.
"""

import argparse
import array
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from bench import report
from bench.chunks import MODEL
from build import native, peers
from shimmy.hardware.cpu import num_usable_cores
from shimmy.worker.llama import backend, libllama
from shimmy.worker.llama.context import Context
from shimmy.worker.llama.model import Model

PROMPTS = (16, 64, 512)
STREAMS = (1, 4, 8, 16)
_CONTEXT_LENGTH = 4096
_HISTORY_TOKENS = 64
_NUM_STEPS = 24
_NUM_PROMPTS = 2


class Engine:
    """One context of one model; its tokens mean nothing."""

    def __init__(self, path: str) -> None:
        backend.start()
        began_at = time.perf_counter()
        model = Model([path], lambda fraction: None)
        self.load_seconds = time.perf_counter() - began_at
        streams = max(STREAMS)
        self._context = Context(
            model, context_length=_CONTEXT_LENGTH, num_sequences=streams, num_threads=num_usable_cores()
        )
        self._context.grow(_CONTEXT_LENGTH, 0)
        self._next = 100

    def prompt_seconds(self, num_tokens: int) -> float:
        """The fastest of some prompts on an empty cache."""
        return min(self._prompt(num_tokens) for _ in range(_NUM_PROMPTS))

    def step_seconds(self, num_streams: int) -> float:
        """The median step of so many sequences with something behind them."""
        self._context.clear()
        for stream in range(num_streams):
            self._decode([(stream, 0, _HISTORY_TOKENS)])
        places = range(_HISTORY_TOKENS, _HISTORY_TOKENS + _NUM_STEPS)
        return median(self._decode([(stream, place, 1) for stream in range(num_streams)]) for place in places)

    def _prompt(self, num_tokens: int) -> float:
        self._context.clear()
        return self._decode([(0, 0, num_tokens)])

    def _decode(self, rows: Sequence[tuple[int, int, int]]) -> float:
        batch = self._context.batch
        batch.clear()
        for sequence, position, count in rows:
            tokens = array.array("i", range(self._next, self._next + count))
            self._next = 100 + (self._next + count) % 10_000
            batch.add(sequence, tokens, position, logits=True)
        began_at = time.perf_counter()
        self._context.decode()
        return time.perf_counter() - began_at


def measure(folder: Path, path: str) -> dict[str, float]:
    """In this process, which must not have opened llama.cpp."""
    libllama.FOLDER = folder
    engine = Engine(path)
    found = {"load": engine.load_seconds}
    found |= {f"prompt of {count} tokens": engine.prompt_seconds(count) for count in PROMPTS}
    return found | {f"step, {count} streams": engine.step_seconds(count) for count in STREAMS}


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.measure:
        print(msgspec.json.encode(measure(arguments.measure, arguments.model)).decode())
        return
    folders = {"ours": native.LINK.resolve(), "theirs": peers.llama_server().parent}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for number in range(arguments.rounds):
        for name in sorted(folders, reverse=bool(number % 2)):
            rounds[name].append(_in_a_process(folders[name], arguments.model))
    print(f"{'seconds':24}{'ours':>10}{'theirs':>10}{'ours : theirs':>16}", file=sys.stderr)
    for figure in rounds["ours"][0]:
        ours, theirs = ([each[figure] for each in rounds[name]] for name in folders)
        ratio = median(one / other for one, other in zip(ours, theirs, strict=True))
        print(f"{figure:24}{median(ours):10.4f}{median(theirs):10.4f}{ratio:16.2f}", file=sys.stderr)
    libraries = report.public({name: str(folder) for name, folder in folders.items()})
    document = {"model": arguments.model, "servers": libraries, "engines": rounds}
    report.write(document, arguments.output)


def _in_a_process(folder: Path, model: str) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.kernels", "--measure", str(folder), model]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(done.stdout, type=dict[str, float])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("model", nargs="?", default=MODEL)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: stdout")
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
