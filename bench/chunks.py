"""`python -m bench.chunks`: what a chunk of a prompt costs beside sequences that decode, in the engine itself, without
a server. A table to stderr, JSON to stdout. What shimmy/worker/pacing.py is about.
"""

import argparse
import array
import os
import sys
import time
from pathlib import Path

import msgspec

from bench import report
from shimmy.hardware.cpu import num_usable_cores
from shimmy.worker.llama import backend
from shimmy.worker.llama.context import BATCH_TOKENS, Context
from shimmy.worker.llama.model import Model

MODEL = "models/SmolLM2-135M-Instruct.Q4_1.gguf"
_CHUNK_SIZES = [0, 8, 16, 32, 64, 128, 256, 480]
_TOKEN = 100
_HISTORY_TOKENS = 200


class Cost(msgspec.Struct, frozen=True):
    """The fastest step of `num_decoding` rows, and `num_prefill` tokens of a prompt that has as many behind it as the
    decoding sequences have."""

    num_decoding: int
    num_prefill: int
    seconds: float


class Bench:
    """One context. Sequence 0 is what the prompt has behind it, 1 goes on from there, the others decode."""

    def __init__(self, path: str, num_decoding: int, num_threads: int) -> None:
        backend.start()
        self._context = Context(
            Model([path], lambda fraction: None),
            context_length=(num_decoding + 2) * 2 * _HISTORY_TOKENS + BATCH_TOKENS,
            num_sequences=num_decoding + 2,
            num_threads=num_threads,
        )
        self._lengths = [0] * (num_decoding + 2)
        self._num_threads = num_threads

    def measure(self, num_decoding: list[int], repeat: int) -> list[Cost]:
        """Every mixture once, and again: a machine that drifts does so for all."""
        for sequence in range(len(self._lengths)):
            self._step([(sequence, _HISTORY_TOKENS)])
        mixtures = [(count, size) for count in num_decoding for size in _CHUNK_SIZES if count or size]
        times: dict[tuple[int, int], list[float]] = {mixture: [] for mixture in mixtures}
        for _ in range(repeat):
            for count, size in mixtures:
                times[count, size].append(self._mixed(count, size))
        return [Cost(count, size, min(found)) for (count, size), found in times.items()]

    def _mixed(self, num_decoding: int, num_prefill: int) -> float:
        self._context.forget(1)
        self._context.copy(0, 1, _HISTORY_TOKENS)
        self._lengths[1] = _HISTORY_TOKENS
        decoding = [(sequence, 1) for sequence in range(2, num_decoding + 2)]
        return self._step([*decoding, (1, num_prefill)] if num_prefill else decoding)

    def _step(self, rows: list[tuple[int, int]]) -> float:
        batch = self._context.batch
        batch.clear()
        for sequence, count in rows:
            tokens = array.array("i", [_TOKEN]) * count
            batch.add(sequence, tokens, self._lengths[sequence], logits=count == 1)
            self._lengths[sequence] += count
        began = time.process_time()
        self._context.decode()
        return (time.process_time() - began) / self._num_threads


def main() -> None:
    options = arguments()
    bench = Bench(options.model, max(options.streams), options.threads)
    costs = bench.measure([0, *options.streams], options.repeat)
    print(table(costs), file=sys.stderr)
    report.write({"model": os.path.basename(options.model), "threads": options.threads, "costs": costs}, options.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.chunks", description=__doc__)
    parser.add_argument("--model", default=MODEL, metavar="FILE")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--threads", type=int, default=num_usable_cores())
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--output", type=Path, metavar="FILE")
    return parser.parse_args()


def table(costs: list[Cost]) -> str:
    """A line for each number of decoding sequences, a column for each chunk: ms of the step."""
    found = {(cost.num_decoding, cost.num_prefill): cost.seconds * 1e3 for cost in costs}
    lines = [f"{'ms a step':>12}" + "".join(f"{f'+{size}':>9}" for size in _CHUNK_SIZES)]
    for count in sorted({cost.num_decoding for cost in costs}):
        cells = [found.get((count, size)) for size in _CHUNK_SIZES]
        line = "".join(f"{'-' if cell is None else f'{cell:.1f}':>9}" for cell in cells)
        lines.append(f"{count:>4} decode  {line}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
