"""`python -m bench.constraints`: what constraints cost. A table to stderr, JSON to stdout.

First on synthetic logits and vocabularies: how long it takes to check a token, and to draw another one when it is
refused, by the place in the JSON. Then on the demo model: how long a token takes with and without a constraint, in
turns. Best of several, because other processes only ever make it slower.
"""

import argparse
import array
import ctypes as c
import itertools
import json
import random
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from statistics import median

import msgspec

from bench import report
from shimmy.core.events import Event, Finished
from shimmy.core.ipc import EngineOptions
from shimmy.core.request import Chat, Constraint, Generation, Message, Sampling
from shimmy.worker.banned import Banned
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.matcher import ALLOWED, Compiled, Guide
from shimmy.worker.engine import Engine
from shimmy.worker.llama import abi, guided
from shimmy.worker.llama.chain import NUM_KEPT, Chain
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.likeliest import ENTRY_BYTES
from shimmy.worker.llama.recipe import Recipe
from shimmy.worker.loading import load_engine
from shimmy.worker.loop import Command

DEMO = Path(__file__).parents[1] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SIZES = (49_152, 150_000)
NUM_RUNS, NUM_FIRST = 10, 5
SCHEMA = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 40,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "maxLength": 24},
                    "age": {"type": "integer", "minimum": 0, "maximum": 120},
                    "likes": {"enum": ["chess", "music", "sports"]},
                },
                "required": ["name", "age", "likes"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
    "additionalProperties": False,
}
CONSTRAINT = Constraint("json_schema", json.dumps(SCHEMA), "response_format")
# Where an answer may have come to, and a token that may not come there.
PLACES = {
    "the beginning": ("", "the"),
    "inside a string": ('{"people":[{"name":"Bo', "\n"),
    "after a string": ('{"people":[{"name":"Bob"', "the"),
    "a number": ('{"people":[{"name":"Bob","age":', "x"),
    "an enumeration": ('{"people":[{"name":"Bob","age":7,"likes":', "the"),
}
SAMPLINGS = {"drawn": Sampling(seed=1), "greedy": Sampling(temperature=0)}
CHARS = 'etaoinshrdlucmfwypvbgkjqxz ETA.,"{}[]:0123456789-_\n'


class Vocabulary:
    """All bytes, then words of letters and signs, then the end."""

    def __init__(self, size: int) -> None:
        dice = random.Random(1)
        tokens = dict.fromkeys([bytes([byte]) for byte in range(256)] + [b"the"])
        while len(tokens) < size - 1:
            tokens["".join(dice.choices(CHARS, k=dice.randint(2, 8))).encode()] = None
        self.tokens = list(tokens)
        self.end_tokens = frozenset([size - 1])

    def pieces(self) -> list[bytes]:
        return [*self.tokens, b""]


class Draw(guided.GuidedDraw):
    """On a row of our own instead of a context's. Copying the candidates stands for llama.cpp making them of a row."""

    def __init__(self, chain: Chain, guide: Guide, row: "array.array[float]") -> None:
        super().__init__(chain, guide, len(row))
        self._own = row
        self._whole = candidates(row)
        self._copy = c.create_string_buffer(len(self._whole))
        self.seconds = 0.0

    def _logits(self) -> int:
        return self._own.buffer_info()[0]

    def _likeliest(self, count: int) -> bytes:
        found, top = self._all(), llama().llama_sampler_init_top_k(count)
        llama().llama_sampler_apply(top, c.addressof(found))
        llama().llama_sampler_free(top)
        return c.string_at(found.data, ENTRY_BYTES * found.size)

    def _all(self) -> abi.llama_token_data_array:
        c.memmove(self._copy, self._whole, len(self._whole))
        return abi.llama_token_data_array(c.addressof(self._copy), len(self._own), -1, False)

    def _check(self, link: int, candidates: int) -> None:
        began_at = time.perf_counter()
        super()._check(link, candidates)
        self.seconds = time.perf_counter() - began_at

    def run(self) -> float:
        """Draws once. What the constraint has cost of that, in seconds, but for `keeping_seconds`."""
        every = self._all()
        llama().llama_sampler_apply(self._chain, c.addressof(every))
        if self._error:
            raise self._error
        return self.seconds

    def keeping_seconds(self) -> float:
        """What it costs each time to keep the likeliest."""
        if self._kept is None:
            return 0.0
        kept = c.create_string_buffer(self._kept.entries)
        candidates = abi.llama_token_data_array(c.addressof(kept), NUM_KEPT, -1, True)
        began_at = time.perf_counter()
        llama().llama_sampler_apply(self._kept.link, c.addressof(candidates))
        return time.perf_counter() - began_at

    def free(self) -> None:
        llama().llama_sampler_free(self._chain)


class Cost(msgspec.Struct, frozen=True):
    """Microseconds of one place: to see that a token may come, and to draw another one instead of one that may not,
    for the first time that an answer with this constraint comes there and later."""

    vocabulary_size: int
    sampling: str
    place: str
    num_allowed: int
    accepted_us: float
    first_refused_us: float
    refused_us: float


def candidates(row: "array.array[float]") -> bytes:
    """What llama.cpp makes of a row before it samples."""
    entries = (abi.llama_token_data * len(row))()
    words = memoryview(entries).cast("B").cast("i")
    words[::3] = array.array("i", range(len(row)))
    words.cast("B").cast("f")[1::3] = memoryview(row)
    return bytes(entries)


def costs(size: int) -> list[Cost]:
    vocabulary = Vocabulary(size)
    compiler = Compiler(vocabulary)
    ids = {token: id for id, token in enumerate(vocabulary.tokens)}
    dice = random.Random(2)
    row = array.array("f", (dice.gauss(0, 2.5) for _ in range(size)))
    return [
        cost(compiler, row, kind, place, ids[wrong.encode()])
        for kind, (place, (_, wrong)) in itertools.product(SAMPLINGS, PLACES.items())
    ]


def cost(compiler: Compiler, row: "array.array[float]", kind: str, place: str, wrong: int) -> Cost:
    before, _ = PLACES[place]
    mask = at(compiler.compile(CONSTRAINT), before).mask()
    accepted, _ = draw_seconds(compiler, row, kind, before, mask.index(ALLOWED))
    refused, first = draw_seconds(compiler, row, kind, before, wrong)
    return Cost(len(row), kind, place, mask.count(ALLOWED), accepted * 1e6, first * 1e6, refused * 1e6)


def at(compiled: Compiled, before: str) -> Guide:
    guide = compiled.guide()
    for byte in before.encode():
        if not guide.take(byte):
            raise ValueError(f"{before} does not begin an answer")
    return guide


def draw_seconds(
    compiler: Compiler, row: "array.array[float]", kind: str, before: str, drawn: int
) -> tuple[float, float]:
    """What a constraint costs where the chain draws `drawn`: the least of several, and of several first times."""
    row = row[:]
    row[drawn] = 40.0
    firsts, laters = [], []
    for _ in range(NUM_FIRST):
        compiled = compiler.compile(CONSTRAINT)
        # Nothing that was found out about it is there the next time.
        compiler._cache.drop((CONSTRAINT.kind, CONSTRAINT.text))
        guided._few.cache_clear()
        guide = at(compiled, before)
        recipe = Recipe(SAMPLINGS[kind], Banned(), None, len(row), 1000, None, compiled)
        draw = Draw(Chain(recipe, 0), guide, row)
        firsts.append(draw.run())
        for _ in range(NUM_RUNS):
            guide._native.rollback(1)
            laters.append(draw.run())
        keeping = min(draw.keeping_seconds() for _ in range(NUM_RUNS))
        draw.free()
    return min(laters) + keeping, min(firsts) + keeping


class Decoding(msgspec.Struct, frozen=True):
    """One answer: seconds for each of its tokens after the first."""

    name: str
    round: int
    num_tokens: int
    seconds_per_token: float


def decoding(engine: Engine, num_rounds: int, num_tokens: int, num_streams: int) -> list[Decoding]:
    answers = []
    sampled = {"default": Sampling(seed=1), "greedy": Sampling(temperature=0)}
    for round, (kind, sampling) in itertools.product(range(num_rounds), sampled.items()):
        cases: list[tuple[str, Constraint | None]] = [("free", None), ("constrained", CONSTRAINT)]
        for name, constraint in cases[:: 1 if round % 2 else -1]:
            answers.append(answer(engine, f"{name}, {kind}", round, num_tokens, num_streams, sampling, constraint))
    return answers


def answer(
    engine: Engine,
    name: str,
    round: int,
    num_tokens: int,
    num_streams: int,
    sampling: Sampling,
    constraint: Constraint | None,
) -> Decoding:
    commands: SimpleQueue[Command] = SimpleQueue()
    events: list[Event] = []
    loop = engine.loop(commands, lambda frame: events.extend(frame.events))
    prompt = Chat([Message("user", "List forty people as JSON, with name, age and what they like.")])
    generation = Generation(
        id="a",
        model="m",
        prompt=prompt,
        sampling=msgspec.structs.replace(sampling, ignore_eos=constraint is None),
        max_tokens=num_tokens,
        num_choices=num_streams,
        constraint=constraint,
    )
    commands.put(engine.prompter().prepare(generation))
    loop._receive(wait=False)
    while loop.step():
        loop._emit()
    loop._emit()
    finished = [event for event in events if isinstance(event, Finished)]
    seconds = max(event.timings.decode_seconds for event in finished)
    tokens = max(event.usage.completion_tokens for event in finished)
    return Decoding(name, round, tokens, seconds / (tokens - 1))


def main() -> None:
    options = arguments()
    found = [each for size in SIZES for each in costs(size)]
    print(cost_table(found), file=sys.stderr)
    engine = load_engine([str(DEMO)], EngineOptions(context_length=4096, num_sequences=4), lambda fraction: None)
    answers = {
        str(streams): decoding(engine, options.rounds, options.max_tokens, streams) for streams in options.streams
    }
    for streams, each in answers.items():
        print(f"{streams} streams\n{decoding_table(each)}", file=sys.stderr)
    report.write({"mask": found, "decoding": answers}, options.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.constraints", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--max-tokens", type=int, default=200, help="of each answer (default: %(default)s)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the JSON document there, not to stdout")
    return parser.parse_args()


def cost_table(found: list[Cost]) -> str:
    lines = ["tokens   sampled  place             allowed  accepted us  refused us  first refused us"]
    for each in found:
        lines.append(
            f"{each.vocabulary_size:7}  {each.sampling:7}  {each.place:16} {each.num_allowed:8}"
            f" {each.accepted_us:12.1f} {each.refused_us:11.1f} {each.first_refused_us:17.1f}"
        )
    return "\n".join(lines)


def decoding_table(answers: list[Decoding]) -> str:
    """Least and median milliseconds for a token, and the ratios of the two that stood beside each other."""
    lines = []
    for kind in ("default", "greedy"):
        times = {
            name: [each.seconds_per_token * 1e3 for each in answers if each.name == f"{name}, {kind}"]
            for name in ("free", "constrained")
        }
        ratios = [bound / free for free, bound in zip(times["free"], times["constrained"], strict=True)]
        for name, each in times.items():
            lines.append(f"  {kind:8} {name:12} {min(each):8.2f} / {median(each):.2f} ms")
        least = min(times["constrained"]) / min(times["free"])
        lines.append(f"  {kind:8} ratio        {least:8.3f} of the least, {median(ratios):.3f} median of the pairs")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
