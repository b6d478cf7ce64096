"""`discover`: what is where, and why not all of it is served."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.fakes.gguf_writer import GGUF, model
from tests.program import inside

pytestmark = pytest.mark.program


def lines(stdout: str) -> list[list[str]]:
    """Split where at least two spaces part the columns."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in stdout.splitlines()]


def test_says_of_each_place_what_is_there_and_what_is_not_served(invoke: Invoke, machine: Path) -> None:
    folder = machine / "models"
    path = model().write(folder / "a.gguf")
    (folder / "cut.gguf").write_bytes(b"GGUF")
    (folder / "link.gguf").symlink_to(path)
    GGUF({"general.architecture": "llama"}).write(folder / "vocabulary.gguf")
    result = invoke("discover")
    assert (result.exit_code, result.stderr) == (0, "")
    found = lines(result.stdout)
    assert found[:5] == [
        ["models folder:", f"{folder} (1 model)"],
        ["a", "14.7kB", "served", str(path)],
        [
            *("cut", "4B", "not served: truncated: the header goes on to byte 24, the file has 4"),
            str(folder / "cut.gguf"),
        ],
        ["link", "-", "served: the same file as a", str(folder / "link.gguf")],
        ["-", "-", "not served: not a model but a vocabulary", str(folder / "vocabulary.gguf")],
    ]
    elsewhere = {label: place for label, place in found[5:]}
    assert {"Shimmy's store:", "data folder:", "Hugging Face cache:", "Ollama store:", "LM Studio:"} == set(elsewhere)
    assert elsewhere["data folder:"] == f"{machine.parent}/home/.local/share/shimmy/models (does not exist)"


def test_places_with_one_label_are_told_apart(invoke: Invoke, machine: Path) -> None:
    for name in ("one", "one more"):
        model().write(machine / name / f"{name}.gguf")
    found = json.loads(invoke("discover", "--json", "--model-dirs", "one;one more").stdout)
    assert [(each["label"], [model["id"] for model in each["models"]]) for each in found[:2]] == [
        ("--model-dirs", ["one"]),
        ("--model-dirs", ["one-more"]),
    ]


def test_json_has_the_entries_of_the_list(invoke: Invoke, machine: Path) -> None:
    model().write(machine / "models" / "a.gguf")
    GGUF({"general.architecture": "llama"}).write(machine / "models" / "b.gguf")
    [place] = [each for each in json.loads(invoke("discover", "--json").stdout) if each["label"] == "models folder"]
    assert place == {
        "label": "models folder",
        "place": str(machine / "models"),
        "trouble": None,
        "unreadable_folders": [],
        "models": json.loads(invoke("list", "--json").stdout),
        "skipped": [
            {"name": None, "paths": [str(machine / "models" / "b.gguf")], "reason": "not a model but a vocabulary"}
        ],
    }


@inside("a folder that root cannot read, either")
def test_folders_that_cannot_be_read_are_named(invoke: Invoke, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = machine / "models" / "closed"
    model().write(closed / "a.gguf")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(closed) and access(path, mode))
    assert ["-", "-", "not served: the folder cannot be read", str(closed)] in lines(invoke("discover").stdout)
    [place] = [each for each in json.loads(invoke("discover", "--json").stdout) if each["label"] == "models folder"]
    assert place["unreadable_folders"] == [str(closed)]
