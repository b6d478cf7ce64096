"""What it costs to sample one token of synthetic logits, in the chains that the worker builds.

    python -m bench.samplers [VOCABULARY_SIZE ...]

Prints microseconds, the least of several runs: once with a few tokens much likelier than all others, once without any.
"whole" is llama.cpp's sampler on the whole vocabulary, where the worker's chain has another one before it.
"""

import array
import ctypes as c
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from shimmy.core.request import Sampling
from shimmy.worker.banned import Banned
from shimmy.worker.llama import abi, chain
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.recipe import Recipe

SIZES = (49_152, 262_144)
NUM_RUNS = 8
OPEN: dict[str, Any] = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 1}
CASES: dict[str, dict[str, Any]] = {
    "the defaults": {"top_k": 40, "top_p": 0.95, "min_p": 0.05},
    "temperature alone": {},
    "min_p": {"min_p": 0.05},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "top_p": {"top_p": 0.95},
    "typical_p": {"typical_p": 0.9},
    "XTC": {"xtc_probability": 1.0},
    "dynamic temperature": {"dynatemp_range": 0.3},
    "mirostat 1": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
}


class Uncut(chain.Chain):
    def _cut(self) -> None:
        """Nothing."""


def logits(size: int, num_likely: int) -> "array.array[float]":
    dice = random.Random(1)
    values = array.array("f", (dice.gauss(0, 2.5) for _ in range(size)))
    for at in range(num_likely):
        values[at] += 18 - 14 * at / num_likely
    return values


def candidates(values: "array.array[float]") -> bytes:
    """The array of candidates that llama.cpp makes of a row."""
    rows = (abi.llama_token_data * len(values))()
    for token, logit in enumerate(values):
        rows[token].id, rows[token].logit = token, logit
    return bytes(rows)


def microseconds(kind: type[chain.Chain], fields: dict[str, Any], rows: bytes) -> float:
    """Of one draw."""
    library = llama()
    apply = library._short.llama_sampler_apply
    apply.restype, apply.argtypes = None, (c.c_void_p, c.c_void_p)
    size = len(rows) // c.sizeof(abi.llama_token_data)
    recipe = Recipe(Sampling(**(OPEN | fields)), Banned(), None, size, 1000, None)
    native = kind(recipe, choice=0).native
    best = float("inf")
    for _ in range(NUM_RUNS):
        data = c.create_string_buffer(rows, len(rows))
        row = abi.llama_token_data_array(c.addressof(data), size, -1, False)
        began_at = time.perf_counter()
        apply(native, c.addressof(row))
        best = min(best, time.perf_counter() - began_at)
    library.llama_sampler_free(native)
    return best * 1e6


def table(size: int) -> Iterator[str]:
    peaked, flat = candidates(logits(size, 40)), candidates(logits(size, 0))
    yield f"{size:,} tokens       peaked: whole      ours   flat: whole      ours"
    for name, fields in CASES.items():
        figures = [microseconds(kind, fields, rows) for rows in (peaked, flat) for kind in (Uncut, chain.Chain)]
        yield f"{name:20} " + "".join(f"{figure:13,.0f}" for figure in figures)


def main(sizes: tuple[int, ...]) -> None:
    for size in sizes:
        for line in table(size):
            print(line, flush=True)


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or SIZES)
