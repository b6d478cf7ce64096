"""The report says what the documents say, is made of nothing else, and is the one that they make."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import figures, summary
from bench.embeddings import SCENARIOS
from bench.figures import Document, compare, read
from bench.plot import Bar, Group, bars
from bench.summary import CLAIMS, GOALS, OWN_GOALS, best_peer, times_better, write

RESULTS = summary.FOLDER / "results"
MACHINE = {"processor": "Some Processor", "cores": 2, "kernel": "6.1", "python": "3.11"}


def document(folder: Path, name: str, at: float, *servers: str, **content: Any) -> None:
    about = {"machine": MACHINE, "finished_unix": at, "load_average": [0.5, 0.5, 0.5]}
    commands = {server: f"{server} --port {{port}}" for server in servers}
    (folder / name).write_bytes(msgspec.json.encode(about | {"servers": commands} | content))


def a_round(server: str, seconds: float, speed: float) -> dict[str, Any]:
    return {
        "server": server,
        "startup": {"healthy_seconds": seconds, "first_token_seconds": 2 * seconds},
        "prefills": [{"first_token_seconds": 3 * seconds}, {"first_token_seconds": 2.5 * seconds}],
        "decodes": [{"num_streams": 1, "tokens_per_second": speed}],
        "contentions": [{"num_streams": 1, "quiet_tokens_per_second": 2 * speed, "contended_tokens_per_second": speed}],
    }


def pair(ours: float, theirs: float, contended: bool = False) -> dict[str, Any]:
    speeds = {"first": {"tokens_per_second": ours}, "second": {"tokens_per_second": theirs}}
    return {"num_streams": 1, "contended": contended} | speeds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One document of each mode, with figures that are easy to reckon with."""
    rounds = [a_round("shimmy", 0.1, 90), a_round("llama-server", 0.4, 100), a_round("shimmy", 0.2, 95)]
    document(tmp_path, "start.json", 5.0, "shimmy", "llama-server", rounds=[*rounds, a_round("llama-server", 0.4, 100)])
    document(tmp_path, "pairs.json", 1.0, "shimmy", "llama-server", pairs=[pair(110, 100), pair(50, 1, True)])
    document(
        tmp_path, "other-pairs.json", 2.0, "shimmy", "llama-server-defaults", pairs=[pair(120, 100), pair(140, 100)]
    )
    scenario = {"name": "a long prompt joins 1 stream"}
    gaps = [
        {"server": name, "scenario": scenario, "worst_gap_seconds": gap, "first_token_seconds": [1.0, first]}
        for name, gap, first in (("shimmy", 0.2, 2.2), ("llama-server", 4.0, 2.0))
    ]
    others = [
        each | {"scenario": {"name": "8 short prompts join 4 streams"}, "worst_gap_seconds": 9.0} for each in gaps
    ]
    document(tmp_path, "gaps.json", 3.0, "shimmy", "llama-server", results=gaps + others)
    document(
        tmp_path,
        "prefixes.json",
        3.0,
        "shimmy",
        "llama-server",
        crowds=[{"server": "shimmy", "all_seconds": 3.0}, {"server": "llama-server", "all_seconds": 12.0}],
        returns=[
            {"server": "shimmy", "cold_seconds": 2.0, "warm_seconds": 0.1, "restarted_seconds": 0.2},
            {"server": "llama-server", "cold_seconds": 2.0, "warm_seconds": 0.2, "restarted_seconds": None},
        ],
    )
    document(
        tmp_path,
        "footprint.json",
        3.0,
        "shimmy",
        "fastapi",
        starts=[
            {"server": name, "healthy_seconds": seconds, "memory": {"rss": rss}}
            for name, seconds, rss in (("shimmy", 0.05, 20_000_000), ("fastapi", 1.5, 300_000_000))
        ],
        sizes={"shimmy": {"num_bytes": 10_000_000}, "fastapi": {"num_bytes": 100_000_000}},
    )
    listings = [{"warm": {"seconds": 0.05, "cpu_seconds": 9.0}, "again": {"seconds": 0.2, "cpu_seconds": 9.0}}]
    arrivals = [
        {"kind": kind, "models": 10000, "is_contended": is_contended, "seconds": 0.7}
        for kind in ("moved", "copied", "removed")
        for is_contended in (False, True)
    ]
    document(tmp_path, "catalogue.json", 3.0, "shimmy", "shimmy", listings=listings, arrivals=arrivals)
    probes = [
        {"sent_at_seconds": at, "wait_ms": wait, "seconds": 0.1} for at, wait in ((0.1, 4.0), (0.2, 7.0), (5, 300))
    ]
    switch = {"round": 1, "switch_seconds": 1.0, "num_streams_ended": 8, "num_failed": 0, "worst_gap_seconds": 0.1}
    document(tmp_path, "swap.json", 3.0, "shimmy", switches=[switch | {"probes": probes}])
    runs = [
        {"prompt": prompt, "speculative": type, "num_streams": 1, "round": 1, "tokens": 100, "cpu_seconds": seconds}
        for prompt, type, seconds in (("edit", "none", 2.0), ("edit", "ngram", 1.0), ("story", "none", 2.0))
    ]
    beside = [runs[0] | {"num_streams": 4}, runs[0] | {"speculative": "draft"}, runs[2] | {"speculative": "ngram"}]
    document(tmp_path, "speculative.json", 3.0, "shimmy", runs=runs + beside)
    return tmp_path


def rows(page: str) -> dict[str, list[str]]:
    """The cells after the first of each row; the first one says which it is."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in cells}


def test_the_committed_report_is_what_the_results_make(tmp_path: Path) -> None:
    """`make bench-report` makes it."""
    write(read(RESULTS), tmp_path)
    assert (tmp_path / "report.md").read_text() == (summary.FOLDER / "report.md").read_text()
    made = {path.name: path.read_text() for path in (tmp_path / "plots").iterdir()}
    assert made == {path.name: path.read_text() for path in (summary.FOLDER / "plots").iterdir()}


def test_results_do_not_say_where_things_lie_on_a_machine() -> None:
    for path in RESULTS.rglob("*.json"):
        assert not re.search(r"(?<![\w.~])/(?:home|root|work|tmp|usr|var|opt)\b", path.read_text()), path.name


def test_every_figure_that_is_wanted_is_one_that_documents_have(folder: Path) -> None:
    known = {figure for each in read(folder) for figure in each.figures}
    wanted = {each.figure for each in (*GOALS, *OWN_GOALS)} | {each.figure for each in CLAIMS}
    missing = {figure for figure in wanted - known if not figure.startswith("embed ")}
    assert missing == {"decode 4", "decode 8", "decode 16"}, "these are there with more streams"


def test_every_embedding_figure_is_one_that_the_benchmark_measures() -> None:
    wanted = {each.figure for each in GOALS if each.figure.startswith("embed ")}
    assert wanted and wanted <= {f"embed {scenario.name}" for scenario in SCENARIOS}


def test_pairs_decide_before_rounds_and_the_latest_before_earlier_ones(folder: Path) -> None:
    found = compare(read(folder), "decode 1", "llama-server")
    assert found and (found.document, found.ratios) == ("pairs.json", [1.1])
    document(folder, "new-pairs.json", 9.0, "shimmy", "llama-server", pairs=[pair(90, 100)])
    found = compare(read(folder), "decode 1", "llama-server")
    assert found and (found.document, found.ratios) == ("new-pairs.json", [0.9])


def test_of_llama_servers_flags_those_count_that_suit_it_best(folder: Path) -> None:
    speed, start = (next(goal for goal in GOALS if goal.figure == name) for name in ("decode 1", "first token"))
    found = best_peer(read(folder), speed)
    assert found and (found.peer, found.ratios) == ("llama-server", [1.1])
    faster = [a_round("shimmy", 0.1, 1), a_round("llama-server-defaults", 0.2, 1)]
    document(folder, "defaults.json", 1.0, "shimmy", "llama-server-defaults", rounds=faster)
    found = best_peer(read(folder), start)
    assert found and (found.peer, found.ratios) == ("llama-server-defaults", [0.5])


def test_the_page(folder: Path, tmp_path: Path) -> None:
    write(read(folder), tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert rows(page.partition("FastAPI")[0])["tokens/s, 1 stream"][:3] == ["≥ 1", "1.10 (1.10-1.10)", "yes"]
    table = rows(page)
    assert table["exec to first token"][:5] == [
        "≤ 0.4",
        "0.38 (0.25-0.50)",
        "yes",
        "200 ms / 300 ms",
        "800 ms / 800 ms",
    ]
    assert table["tokens/s, 1 stream"][:3] == ["1.29x", "not measured yet", ""]
    assert table["tokens/s, 4 streams"][:2] == ["≥ 1", "not measured yet"]
    assert table["16 clients, one system prompt"][1:5] == ["0.25 (0.25-0.25)", "yes", "3000 ms", "12.0 s"]
    assert table["worst gap as a prompt joins"][1:3] == ["0.05 (0.05-0.05)", "yes"]
    assert table["first token of that prompt"][1:3] == ["1.10 (1.10-1.10)", "yes"]
    assert table["first token, known beginning : new"][1:4] == ["0.05 (0.05-0.05)", "yes", "0.10 (0.10-0.10)"]
    assert table["the same after a restart"][1:4] == ["0.10 (0.10-0.10)", "yes", ""]
    assert table["speed beside a busy process : free"][1:3] == ["0.50 (0.50-0.50)", "yes"]
    assert table["speed with prompt lookup : without, an edit"][1:3] == ["2.00 (2.00-2.00)", "yes"]
    assert table["exec to the first 200"][:3] == ["20x", "30 (30-30)", "yes"]
    assert table["memory when idle"][1:6] == ["15 (15-15)", "yes", "", "20.0 MB", "300.0 MB"]
    assert table["files that it needs"][:3] == ["30x", "10 (10-10)", "**no**"]
    assert table["gaps.json"] == ["1970-01-01 00:00", "Some Processor", "2", "6.1", "0.5"]


def test_plots_that_have_no_figures_are_not_there(folder: Path, tmp_path: Path) -> None:
    write(read(folder), tmp_path)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"throughput.svg", "times.svg", "claims.svg"}
    (folder / "footprint.json").unlink()
    write(read(folder), tmp_path)
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"throughput.svg", "times.svg"}
    assert "claims.svg" not in (tmp_path / "report.md").read_text()


def test_more_tokens_and_less_of_the_rest_are_better(folder: Path) -> None:
    start, speed = (next(each for each in CLAIMS if each.figure == name) for name in ("start", "decode 1"))
    faster = figures.Comparison([20.0], [10.0], "fastapi", "x.json")
    assert (times_better(faster, speed.unit), times_better(faster, start.unit)) == ([2.0], [0.5])


def test_a_plot_is_svg_that_says_what_it_shows() -> None:
    drawn = bars("Speed & <size>", [Group("one", [Bar("a", 2.0, "2"), Bar("b", 4.0, "4")], mark=8.0)])
    root = ElementTree.fromstring(drawn)
    name = "{http://www.w3.org/2000/svg}"
    assert [text.text for text in root.iter(f"{name}text")] == ["Speed & <size>", "a", "b", "one", "2", "4"]
    widths = [float(each.attrib["width"]) for each in root.iter(f"{name}rect")][2:]
    assert widths == [100.0, 200.0], "the mark is the longest"


def test_a_document_of_no_known_mode_is_not_passed_over(tmp_path: Path) -> None:
    document(tmp_path, "odd.json", 1.0, "shimmy", something=[])
    with pytest.raises(SystemExit, match="odd.json"):
        read(tmp_path)


def test_ours_is_the_server_named_first(folder: Path) -> None:
    found: list[Document] = read(folder)
    assert {each.ours for each in found} == {"shimmy"}
