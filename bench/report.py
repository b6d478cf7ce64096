"""From rounds to figures: one number per round and metric, the best and the median of each, and paired ratios."""

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench.measure import Round
from build import cache


class Metric(msgspec.Struct, frozen=True):
    """`values` has one number per round, in order; `best` is the largest where more is better, else the smallest."""

    name: str
    unit: str
    best: float
    median: float
    values: list[float]


class Ratio(msgspec.Struct, frozen=True):
    """First server over second server, round by round."""

    metric: str
    min: float
    median: float
    max: float


def metrics(rounds: Sequence[Round]) -> list[Metric]:
    """The figures of one server over all its rounds."""
    columns: dict[tuple[str, str], list[float]] = {}
    for each in rounds:
        for name, unit, value in _figures(each):
            columns.setdefault((name, unit), []).append(value)
    return [
        Metric(name, unit, (max if unit == "tok/s" else min)(values), median(values), values)
        for (name, unit), values in columns.items()
    ]


def ratios(first: Sequence[Metric], second: Sequence[Metric]) -> list[Ratio]:
    others = {metric.name: metric.values for metric in second}
    found = []
    for metric in first:
        pairs = list(zip(metric.values, others.get(metric.name, []), strict=False))
        quotients = [ours / theirs for ours, theirs in pairs if theirs]
        if quotients:
            found.append(Ratio(metric.name, min(quotients), median(quotients), max(quotients)))
    return found


def _figures(each: Round) -> Iterator[tuple[str, str, float]]:
    if each.startup:
        yield "exec to /health 200", "ms", each.startup.healthy_seconds * 1e3
        yield "exec to first token", "ms", each.startup.first_token_seconds * 1e3
    yield "first token, 512-token prompt", "ms", min(prefill.first_token_seconds for prefill in each.prefills) * 1e3
    for decode in each.decodes:
        yield f"decode, {_streams(decode.num_streams)}", "tok/s", decode.tokens_per_second
    for decode in each.decodes:
        yield f"worst gap, {_streams(decode.num_streams)}", "ms", decode.worst_gap_seconds * 1e3
    yield "first token, long prompt joins a stream", "ms", each.join.first_token_seconds * 1e3
    yield "worst gap of that stream", "ms", each.join.running_worst_gap_seconds * 1e3
    for contention in each.contentions:
        yield f"quiet, {_streams(contention.num_streams)}", "tok/s", contention.quiet_tokens_per_second
        yield f"contended, {_streams(contention.num_streams)}", "tok/s", contention.contended_tokens_per_second
    if each.memory and each.cpu_seconds is not None:
        yield "memory at the end, RSS", "MB", each.memory.rss / 1e6
        yield "memory at the end, PSS", "MB", each.memory.pss / 1e6
        yield "processor time of the round", "s", each.cpu_seconds


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"


def table(figures: dict[str, list[Metric]], paired: Sequence[Ratio]) -> str:
    """Columns of text: best and median of each server, then the ratios."""
    names = list(figures)
    ratio_of = {ratio.metric: ratio for ratio in paired}
    head = ["", "", *(f"{name} best / median" for name in names)]
    rows = [[*head, f"{names[0]} : {names[1]}, min / median"] if paired else head]
    for metric in figures[names[0]]:
        row = [metric.name, metric.unit]
        for name in names:
            match = next((other for other in figures[name] if other.name == metric.name), None)
            row.append(f"{match.best:.1f} / {match.median:.1f}" if match else "-")
        if ratio := ratio_of.get(metric.name):
            row.append(f"{ratio.min:.2f} / {ratio.median:.2f}")
        rows.append(row)
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join(lines)


def public(commands: Mapping[str, str]) -> dict[str, str]:
    """Commands by server, without where they lie on this machine."""
    places = {os.getcwd(): ".", str(cache.root()): "CACHE", os.path.expanduser("~"): "~"}
    found = {}
    for name, command in commands.items():
        for place, stand_in in places.items():
            command = command.replace(f"{place}/", f"{stand_in}/")
        found[name] = command
    return found


def machine() -> dict[str, str | int]:
    """Where the figures come from."""
    with open("/proc/cpuinfo") as file:
        model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown")
    cores = len(os.sched_getaffinity(0))
    return {"processor": model, "cores": cores, "kernel": platform.release(), "python": platform.python_version()}


def write(document: dict[str, Any], output: Path | None) -> None:
    """The document as JSON, with where and when it was measured, to a file or to stdout."""
    about = {"machine": machine(), "finished_unix": time.time(), "load_average": os.getloadavg()}
    text = msgspec.json.format(msgspec.json.encode(about | document), indent=1).decode()
    if output:
        output.write_text(text + "\n")
    else:
        print(text)
