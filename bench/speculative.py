"""`python -m bench.speculative`: what guessing tokens ahead saves, in the engine itself, without a server: for an
edit, whose answer is in its prompt but for a name, and for a story. A table to stderr, JSON to stdout.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from queue import SimpleQueue
from statistics import median

import msgspec

from bench import report
from bench.chunks import MODEL
from bench.prompts import edit_prompt, story_prompt
from shimmy.core.events import Event, Finished, TextDelta
from shimmy.core.ipc import EngineOptions, Events
from shimmy.core.request import Generation, Sampling, Speculative, SpeculativeType, Text
from shimmy.hardware.cpu import num_usable_cores
from shimmy.worker.engine import Engine
from shimmy.worker.loading import load_engine
from shimmy.worker.loop import Command

_PROMPTS = {"edit": edit_prompt, "story": story_prompt}


class Run(msgspec.Struct, frozen=True):
    """`num_streams` greedy answers to one kind of prompt side by side, from the first token of the last one to the end
    of all. `cpu_seconds` is the process's time on processors, divided by its threads."""

    prompt: str
    speculative: str
    num_streams: int
    round: int
    tokens: int
    drafted: int
    accepted: int
    seconds: float
    cpu_seconds: float
    text: str


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        drafts = (options.draft,) if options.draft else ()
        settings = EngineOptions(context_length=8192, num_threads=options.threads, draft_paths=drafts)
        self._engine: Engine = load_engine([options.model], settings, lambda fraction: None)
        self._max_tokens, self._num_threads = options.max_tokens, options.threads

    def run(self, kind: str, type: SpeculativeType, num_streams: int, number: int) -> Run:
        events: list[Event] = []
        commands: SimpleQueue[Command] = SimpleQueue()

        def send(frame: Events) -> None:
            events.extend(frame.events)

        loop, prompter = self._engine.loop(commands, send), self._engine.prompter()
        for stream in range(num_streams):
            commands.put(prompter.prepare(self._generation(kind, type, f"{number} {stream}")))
        while len({event.id for event in events if isinstance(event, TextDelta)}) < num_streams:
            loop._receive(wait=False)
            loop.step()
            loop._emit()
        began_at, cpu_before = time.monotonic(), time.process_time()
        num_before = sum(isinstance(event, TextDelta) for event in events)
        while loop.step():
            loop._emit()
        loop._emit()
        seconds, cpu_seconds = time.monotonic() - began_at, (time.process_time() - cpu_before) / self._num_threads
        usages = [event.usage for event in events if isinstance(event, Finished)]
        tokens = sum(usage.completion_tokens for usage in usages) - num_before
        drafted, accepted = (
            sum(getattr(usage, f"{what}_tokens") for usage in usages) for what in ("drafted", "accepted")
        )
        text = "".join(event.text for event in events if isinstance(event, TextDelta) and event.id.endswith(" 0"))
        return Run(kind, type, num_streams, number, tokens, drafted, accepted, seconds, cpu_seconds, text)

    def _generation(self, kind: str, type: SpeculativeType, id: str) -> Generation:
        return Generation(
            id=id,
            model="",
            prompt=Text(_PROMPTS[kind](id)),
            sampling=Sampling(temperature=0),
            max_tokens=self._max_tokens,
            speculative=Speculative(type=type),
        )


def main() -> None:
    options = arguments()
    bench = Bench(options)
    types: list[SpeculativeType] = ["none", "ngram", "draft"] if options.draft else ["none", "ngram"]
    runs = [
        bench.run(kind, type, num_streams, number)
        for number in range(1, options.rounds + 1)
        for kind in _PROMPTS
        for num_streams in options.streams
        for type in (types if number % 2 else types[::-1])
    ]
    print(table(runs), file=sys.stderr)
    document = {"model": os.path.basename(options.model), "draft": os.path.basename(options.draft or "")}
    servers = {"shimmy": "its engine, without a server"}
    report.write({**document, "threads": options.threads, "servers": servers, "runs": runs}, options.output)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.speculative", description=__doc__)
    parser.add_argument("--model", default=MODEL, metavar="FILE")
    parser.add_argument("--draft", metavar="FILE", help="a draft model, to measure it too")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=num_usable_cores())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--output", type=Path, metavar="FILE")
    return parser.parse_args()


def table(runs: list[Run]) -> str:
    """Medians over the rounds; speeds are ratios to the same without drafts, round by round."""
    titles = f"{'tok/s':>8}{'speed':>8}{'by cpu':>8}{'drafted':>9}{'accepted':>10}{'same':>6}"
    lines = [f"{'prompt':8}{'streams':>8}{'guesses':>9}{titles}"]
    plain = {(run.prompt, run.num_streams, run.round): run for run in runs if run.speculative == "none"}
    for key in dict.fromkeys((run.prompt, run.num_streams, run.speculative) for run in runs):
        found = [run for run in runs if (run.prompt, run.num_streams, run.speculative) == key]
        pairs = [(run, plain[run.prompt, run.num_streams, run.round]) for run in found]
        speed = median(run.tokens / run.seconds for run in found)
        cells = [
            f"{key[1]:8}{key[2]:>9}{speed:8.1f}",
            f"{median(run.tokens / run.seconds / other.tokens * other.seconds for run, other in pairs):8.2f}",
            f"{median(run.tokens / run.cpu_seconds / other.tokens * other.cpu_seconds for run, other in pairs):8.2f}",
            f"{median(run.drafted for run in found):9.0f}{median(run.accepted for run in found):10.0f}",
            f"{sum(run.text == other.text for run, other in pairs)}/{len(pairs)}".rjust(6),
        ]
        lines.append(f"{key[0]:8}{''.join(cells)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
