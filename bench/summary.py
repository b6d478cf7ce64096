"""`make bench-report`: bench/report.md and bench/plots/, from the documents in bench/results/ and nothing else. Says
what was to be reached, what was, and what has not been measured.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Literal

import msgspec

from bench.figures import Comparison, Document, compare, read
from bench.plot import Bar, Group, bars

FOLDER = Path(__file__).parent
Unit = Literal["s", "tok/s", "bytes", "share"]


class Goal(msgspec.Struct, frozen=True):
    """A figure and the ratio that it shall have: ours over the peer's, or, for a `share`, ours by itself."""

    figure: str
    label: str
    unit: Unit
    bound: float
    is_most: bool

    def is_reached(self, value: float) -> bool:
        return value <= self.bound if self.is_most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.is_most else '≥'} {self.bound:g}"


class Claim(msgspec.Struct, frozen=True):
    """A figure of which the original says that it is so many times better than the same server in Python."""

    figure: str
    label: str
    unit: Unit
    times: float


LLAMA_SERVER = ("llama-server", "llama-server-defaults")
GOALS: tuple[Goal, ...] = (
    Goal("decode 1", "tokens/s, 1 stream", "tok/s", 1.0, False),
    Goal("decode 4", "tokens/s, 4 streams", "tok/s", 1.0, False),
    Goal("decode 8", "tokens/s, 8 streams", "tok/s", 1.0, False),
    Goal("decode 16", "tokens/s, 16 streams", "tok/s", 1.0, False),
    Goal("prefill", "first token, 512-token prompt", "s", 1.0, True),
    Goal("first token", "exec to first token", "s", 0.4, True),
    Goal("crowd", "16 clients, one system prompt", "s", 0.3, True),
    Goal("worst gap", "worst gap as a prompt joins", "s", 0.1, True),
    Goal("joiner", "first token of that prompt", "s", 1.15, True),
    Goal("embed 1 client, 1 text of 8 words", "embeddings, tokens/s, 1 client, 1 text", "tok/s", 1.0, False),
    Goal("embed 16 clients, 1 text of 8 words", "embeddings, tokens/s, 16 clients, 1 text each", "tok/s", 1.0, False),
    Goal("embed 1 client, 256 texts of 8 words", "embeddings, tokens/s, 256 texts", "tok/s", 1.0, False),
    Goal("embed 1 client, 64 texts of 60 words", "embeddings, tokens/s, 64 longer texts", "tok/s", 1.0, False),
)
OWN_GOALS = (
    Goal("warm", "first token, known beginning : new", "share", 0.1, True),
    Goal("restarted", "the same after a restart", "share", 0.2, True),
    Goal("guesses edit", "speed with prompt lookup : without, an edit", "share", 1.2, False),
    Goal("guesses story", "the same, a story", "share", 0.95, False),
    Goal("contended 1", "speed beside a busy process : free", "share", 0.45, False),
    Goal("listed warm", "to list 1,000 models, headers cached, ms", "s", 100.0, True),
    Goal("listed again", "the same, for a catalogue that has listed them before", "s", 100.0, True),
    Goal("moved among 10000", "to list a file that is moved into a folder of 10,000, ms", "s", 2000.0, True),
    Goal("copied among 10000", "the same, a slow copy, from its last byte", "s", 2000.0, True),
    Goal("copied among 10000 contended", "the same beside a busy process", "s", 2000.0, True),
    Goal("removed among 10000", "to list it no more, ms", "s", 2000.0, True),
    Goal("switch", "longest wait for a model as its file is replaced beside 8 streams, ms", "s", 100.0, True),
)
BASELINE = ("fastapi", "fastapi-tuned")
CLAIMS = (
    Claim("start", "exec to the first 200", "s", 20.0),
    Claim("prefill", "first token, 512-token prompt", "s", 2.7),
    Claim("decode 1", "tokens/s, 1 stream", "tok/s", 1.29),
    Claim("memory", "memory when idle", "bytes", 7.9),
    Claim("size", "files that it needs", "bytes", 30.0),
)
_NOT_MEASURED = "not measured yet"


def main() -> None:
    write(read(FOLDER / "results"), FOLDER)
    print(FOLDER / "report.md")


def write(documents: list[Document], folder: Path) -> None:
    """`folder`/report.md and `folder`/plots, in which nothing else is left."""
    plots = dict(_plots(documents))
    (folder / "plots").mkdir(exist_ok=True)
    for old in (folder / "plots").glob("*.svg"):
        old.unlink()
    for name, text in plots.items():
        (folder / "plots" / name).write_text(text)
    (folder / "report.md").write_text("\n".join(_page(documents, list(plots))) + "\n")


def best_peer(documents: list[Document], goal: Goal) -> Comparison | None:
    """Of llama-server's sets of flags the one with which it does best here."""
    found = [each for peer in LLAMA_SERVER if (each := compare(documents, goal.figure, peer))]
    return sorted(found, key=lambda each: median(each.ratios), reverse=goal.is_most)[0] if found else None


def times_better(comparison: Comparison, unit: Unit) -> list[float]:
    return comparison.ratios if unit == "tok/s" else [1 / ratio for ratio in comparison.ratios]


def _page(documents: list[Document], plots: list[str]) -> Iterator[str]:
    yield _HEAD
    for name in plots:
        yield f"\n![{name.removesuffix('.svg')}](plots/{name})"
    yield _AGAINST_LLAMA_SERVER
    yield from _table(
        ["figure", "goal", "ours : theirs", "reached", "ours", "theirs", "their flags", "from"],
        [_against(documents, goal) for goal in GOALS],
    )
    yield _BY_ITSELF
    yield from _table(
        ["figure", "goal", "ours", "reached", "llama-server", "from"], [_alone(documents, goal) for goal in OWN_GOALS]
    )
    yield _AGAINST_BASELINE
    yield from _table(
        ["figure", "claimed", "measured", "as good", "theirs tuned", "ours", "theirs", "from"],
        [_claimed(documents, claim) for claim in CLAIMS],
    )
    yield "\n## Where this was measured\n"
    yield from _table(["document", "when", "processor", "cores", "kernel", "load"], map(_circumstances, documents))


_HEAD = """\
# How fast it is

Made by `make bench-report` from the documents in [results](results); [README.md](README.md) says how each figure is
measured. Servers take turns. A ratio is that of neighbours in time: the median, with the least and the most of them in
brackets. Of figures without a ratio stand the best and the median."""

_AGAINST_LLAMA_SERVER = """
## Against llama-server

Built from the same source with the same compiler options, and the model on both sides is the demo model. Each row has
llama-server's defaults or flags like ours, whichever it does better with. The system prompt of the 16 clients has 1,000
tokens and is new, the prompt that joins has 1,512.
"""

_BY_ITSELF = """
## By itself

A figure of one server against another figure of the same server.
"""

_AGAINST_BASELINE = """
## Against FastAPI and llama-cpp-python

What the original Shimmy claims against such a server, and how many times better ours was here. Theirs is `python -m
llama_cpp.server` with as many threads and as much context as ours; tuned, it does not compute the logits of each prompt
token. It does not start without a model: where it starts or is idle, it has loaded the demo model, and ours none.
"""


def _against(documents: list[Document], goal: Goal) -> list[str]:
    found = best_peer(documents, goal)
    if found is None:
        return [goal.label, str(goal), _NOT_MEASURED, *[""] * 5]
    reached = _yes_or_no(goal.is_reached(median(found.ratios)))
    flags = "its defaults" if found.peer.endswith("-defaults") else "like ours"
    both = [_best(values, goal.unit) for values in (found.ours, found.theirs)]
    return [goal.label, str(goal), _spread(found.ratios), reached, *both, flags, found.document]


def _alone(documents: list[Document], goal: Goal) -> list[str]:
    for document in documents:
        servers = document.figures.get(goal.figure, {})
        if ours := servers.get(document.ours):
            theirs = [_spread(values) for name, values in servers.items() if name in LLAMA_SERVER]
            reached = _yes_or_no(goal.is_reached(median(ours)))
            return [goal.label, str(goal), _spread(ours), reached, " / ".join(theirs), document.name]
    return [goal.label, str(goal), _NOT_MEASURED, *[""] * 3]


def _claimed(documents: list[Document], claim: Claim) -> list[str]:
    plain, tuned = (compare(documents, claim.figure, peer) for peer in BASELINE)
    if plain is None:
        return [claim.label, f"{claim.times:g}x", _NOT_MEASURED, *[""] * 5]
    measured = times_better(plain, claim.unit)
    both = [_best(values, claim.unit) for values in (plain.ours, plain.theirs)]
    beside = _spread(times_better(tuned, claim.unit)) if tuned else ""
    reached = _yes_or_no(median(measured) >= claim.times)
    return [claim.label, f"{claim.times:g}x", _spread(measured), reached, beside, *both, plain.document]


def _circumstances(document: Document) -> list[str]:
    machine = document.content["machine"]
    when = datetime.fromtimestamp(document.content["finished_unix"], UTC).strftime("%Y-%m-%d %H:%M")
    load = f"{document.content['load_average'][0]:.1f}"
    return [document.name, when, machine["processor"], str(machine["cores"]), machine["kernel"], load]


def _table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def _yes_or_no(reached: bool) -> str:
    return "yes" if reached else "**no**"


def _spread(ratios: list[float]) -> str:
    return f"{_short(median(ratios))} ({_short(min(ratios))}-{_short(max(ratios))})"


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"


def _best(values: list[float], unit: Unit) -> str:
    """The best and the median, or the only one."""
    best = (max if unit == "tok/s" else min)(values)
    shown = [_quantity(value, unit) for value in (best, median(values))]
    return shown[0] if len(values) == 1 else " / ".join(shown)


def _quantity(value: float, unit: Unit) -> str:
    match unit:
        case "s":
            return f"{value * 1e3:.0f} ms" if value < 10 else f"{value:.1f} s"
        case "bytes":
            return f"{value / 1e6:.1f} MB"
    return f"{value:.0f}" if unit == "tok/s" else f"{value:.2f}"


def _plots(documents: list[Document]) -> Iterator[tuple[str, str]]:
    """Those for which there are figures."""
    compared = [(goal, found) for goal in GOALS if (found := best_peer(documents, goal))]
    claimed = [(claim, found) for claim in CLAIMS if (found := compare(documents, claim.figure, BASELINE[0]))]
    if groups := [_speeds(goal, found) for goal, found in compared if goal.unit == "tok/s"]:
        yield "throughput.svg", bars("Tokens a second, all streams together", groups)
    if groups := [_ratio(goal, found) for goal, found in compared if goal.unit == "s"]:
        yield "times.svg", bars("Times, where llama-server's are 1 (red: the goal)", groups)
    if groups := [_times(claim, found) for claim, found in claimed]:
        yield "claims.svg", bars("So many times better than FastAPI and llama-cpp-python", groups)


def _speeds(goal: Goal, found: Comparison) -> Group:
    speeds = {"Shimmy": median(found.ours), "llama-server": median(found.theirs)}
    return Group(goal.label, [Bar(name, speed, _quantity(speed, goal.unit)) for name, speed in speeds.items()])


def _ratio(goal: Goal, found: Comparison) -> Group:
    ratio = median(found.ratios)
    return Group(goal.label, [Bar("Shimmy : llama-server", ratio, _short(ratio))], goal.bound)


def _times(claim: Claim, found: Comparison) -> Group:
    times = {"measured": median(times_better(found, claim.unit)), "claimed by the original": claim.times}
    return Group(claim.label, [Bar(name, value, f"{_short(value)}x") for name, value in times.items()])


if __name__ == "__main__":
    main()
