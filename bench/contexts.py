"""What a context costs when it is made: `python -m bench.contexts [MODEL.gguf]`.

Prints the least processor time of several, and the memory that the process has more, with a cache that is filled with
zeros and with one that takes memory on demand.
"""

import os
import sys
import time
from contextlib import nullcontext
from unittest import mock

from bench.chunks import MODEL
from shimmy.worker.llama import backend, zeroing
from shimmy.worker.llama.context import Context
from shimmy.worker.llama.model import Model

LENGTHS = (2048, 8192, 131_072)
NUM_RUNS = 4
# A context lives as long as its process.
kept: list[Context] = []


def made(model: Model, length: int) -> tuple[float, int]:
    """Seconds of processor time, and bytes."""
    before, began_at = resident_bytes(), time.process_time()
    context = Context(model, context_length=length, num_sequences=8, num_threads=2)
    seconds, taken = time.process_time() - began_at, resident_bytes() - before
    kept.append(context)
    return seconds, taken


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    backend.start()
    model = Model(sys.argv[1:2] or [MODEL], lambda fraction: None)
    for name, setting in (("zeroed", mock.patch.object(zeroing, "IS_LAZY", False)), ("on demand", nullcontext())):
        with setting:
            for length in LENGTHS if name == "on demand" else LENGTHS[:2]:
                runs = [made(model, length) for _ in range(NUM_RUNS)]
                seconds, taken = min(runs)[0], max(size for _, size in runs)
                print(f"{name}, {length:,} tokens: {1e3 * seconds:.0f} ms, {taken / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
