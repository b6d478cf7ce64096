"""Guesses ahead, measured by the engine that makes them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.prompts import edit_prompt
from bench.speculative import Run, table

ROOT = Path(__file__).parents[2]


def run(type: str, number: int, seconds: float, text: str = "same") -> Run:
    drafted = 0 if type == "none" else 80
    return Run("edit", type, 1, number, 100, drafted, drafted // 2, seconds, seconds / 4, text)


def test_speeds_are_compared_round_by_round() -> None:
    runs = [run("none", 1, 4.0), run("ngram", 1, 2.0), run("ngram", 2, 1.0, "other"), run("none", 2, 10.0)]
    _, plain, guessed = table(runs).splitlines()
    assert plain.split() == ["edit", "1", "none", "17.5", "1.00", "1.00", "0", "0", "2/2"]
    assert guessed.split() == ["edit", "1", "ngram", "75.0", "6.00", "6.00", "80", "40", "1/2"]


def test_prompts_of_different_seeds_differ() -> None:
    assert len({edit_prompt(str(seed)) for seed in range(10)}) > 5


@pytest.mark.model
@pytest.mark.slow
def test_a_run_on_the_demo_model(tmp_path: Path) -> None:
    flags = "--rounds 1 --streams 1 --max-tokens 6".split()
    output = tmp_path / "speculative.json"
    command = [sys.executable, "-m", "bench.speculative", *flags, "--output", str(output)]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stderr
    document = json.loads(output.read_text())
    assert [(run["prompt"], run["speculative"]) for run in document["runs"]] == [
        (prompt, type) for prompt in ("edit", "story") for type in ("none", "ngram")
    ]
    assert all(0 < run["tokens"] <= 6 and run["cpu_seconds"] > 0 for run in document["runs"])
    assert len(shown.splitlines()) == 5
