"""What the documents in bench/results/ say, by figure: one number for each round and server. Knows what the modes of
the benchmark write, not what is wanted of it.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.arrivals import Arrival
from bench.swap import Swapped, waits

# Figure, server, value; those of one round come in one order, so that numbers of two servers pair up.
Found = Iterator[tuple[str, str, float]]


class Document(msgspec.Struct, frozen=True):
    """One file. `figures` has for each figure and server a number for each round: seconds, bytes, tokens a second, or
    one figure's share of another. `precision` is higher for turns that are closer to each other in time."""

    name: str
    content: dict[str, Any]
    figures: dict[str, dict[str, list[float]]]
    precision: int

    @property
    def ours(self) -> str:
        """The server named first."""
        return str(next(iter(self.content["servers"])))


class Comparison(msgspec.Struct, frozen=True):
    """One figure of two servers, round by round, and where it is from."""

    ours: list[float]
    theirs: list[float]
    peer: str
    document: str

    @property
    def ratios(self) -> list[float]:
        return [mine / other for mine, other in zip(self.ours, self.theirs, strict=False)]


def read(folder: Path) -> list[Document]:
    """All documents, those that decide first: where a figure is in several, turns of seconds before rounds of minutes,
    then the latest."""
    documents = [_document(path) for path in sorted(folder.glob("*.json"))]
    return sorted(documents, key=lambda each: (-each.precision, -each.content["finished_unix"]))


def compare(documents: list[Document], figure: str, peer: str) -> Comparison | None:
    for document in documents:
        servers = document.figures.get(figure, {})
        if document.ours in servers and peer in servers:
            return Comparison(servers[document.ours], servers[peer], peer, document.name)
    return None


def _document(path: Path) -> Document:
    content = json.loads(path.read_bytes())
    key = next((key for key in _READERS if key in content), None)
    if key is None:
        sys.exit(f"bench: {path.name} was written by no mode of the benchmark")
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for figure, server, value in _READERS[key](content):
        figures[figure][server].append(value)
    return Document(path.name, content, figures, precision=int(key == "pairs"))


def _rounds(content: dict[str, Any]) -> Found:
    for each in content["rounds"]:
        server = each["server"]
        if each["startup"]:
            yield "loaded start", server, each["startup"]["healthy_seconds"]
            yield "first token", server, each["startup"]["first_token_seconds"]
        yield "prefill", server, min(prefill["first_token_seconds"] for prefill in each["prefills"])
        for decode in each["decodes"]:
            yield f"decode {decode['num_streams']}", server, decode["tokens_per_second"]
        for contention in each["contentions"]:
            share = contention["contended_tokens_per_second"] / contention["quiet_tokens_per_second"]
            yield f"contended {contention['num_streams']}", server, share


def _pairs(content: dict[str, Any]) -> Found:
    first, second = content["servers"]
    for each in content["pairs"]:
        if not each["contended"]:
            yield f"decode {each['num_streams']}", first, each["first"]["tokens_per_second"]
            yield f"decode {each['num_streams']}", second, each["second"]["tokens_per_second"]


def _gaps(content: dict[str, Any]) -> Found:
    for each in content["results"]:
        if each["scenario"]["name"] == "a long prompt joins 1 stream":
            yield "worst gap", each["server"], each["worst_gap_seconds"]
            yield "joiner", each["server"], max(each["first_token_seconds"])


def _prefixes(content: dict[str, Any]) -> Found:
    for each in content["crowds"]:
        yield "crowd", each["server"], each["all_seconds"]
    for each in content["returns"]:
        yield "warm", each["server"], each["warm_seconds"] / each["cold_seconds"]
        if each["restarted_seconds"] is not None:
            yield "restarted", each["server"], each["restarted_seconds"] / each["cold_seconds"]


def _footprints(content: dict[str, Any]) -> Found:
    for each in content["starts"]:
        yield "start", each["server"], each["healthy_seconds"]
        yield "memory", each["server"], each["memory"]["rss"]
    for server, size in content["sizes"].items():
        yield "size", server, size["num_bytes"]


def _guesses(content: dict[str, Any]) -> Found:
    """Processor time, of which other programs take nothing, for one stream."""
    runs = [each for each in content["runs"] if each["num_streams"] == 1]
    plain = {(each["prompt"], each["round"]): each for each in runs if each["speculative"] == "none"}
    for each in runs:
        if each["speculative"] == "ngram":
            other = plain[each["prompt"], each["round"]]
            speeds = [run["tokens"] / run["cpu_seconds"] for run in (each, other)]
            yield f"guesses {each['prompt']}", next(iter(content["servers"])), speeds[0] / speeds[1]


def _embeddings(content: dict[str, Any]) -> Found:
    first, second = content["servers"]
    for each in content["embeddings"]:
        for server, run in ((first, each["first"]), (second, each["second"])):
            yield f"embed {each['scenario']['name']}", server, run["tokens"] / run["seconds"]


def _engines(content: dict[str, Any]) -> Found:
    for server, rounds in content["engines"].items():
        for each in rounds:
            for figure, seconds in each.items():
                yield f"engine {figure}", server, seconds


def _listings(content: dict[str, Any]) -> Found:
    for each in content["listings"]:
        for figure, taken in each.items():
            yield f"listed {figure}", next(iter(content["servers"])), taken["seconds"] * 1000
    # Those that were measured before there were any have none.
    for each in content.get("arrivals", []):
        yield msgspec.convert(each, Arrival).figure, next(iter(content["servers"])), each["seconds"] * 1000


def _switches(content: dict[str, Any]) -> Found:
    """The longest wait for the model while it was switched."""
    for each in content["switches"]:
        seen = waits(msgspec.convert(each, Swapped), during=True)
        yield "switch", next(iter(content["servers"])), max(seen)


# By the key that only documents of this mode have.
_READERS: dict[str, Callable[[dict[str, Any]], Found]] = {
    "rounds": _rounds,
    "pairs": _pairs,
    "crowds": _prefixes,
    "starts": _footprints,
    "results": _gaps,
    "runs": _guesses,
    "embeddings": _embeddings,
    "engines": _engines,
    "listings": _listings,
    "switches": _switches,
}
