"""What listing models takes, for a few of them."""

import json
import sys
from pathlib import Path

import pytest

from bench import arrivals, catalogue
from shimmy.models.scan import SETTLED_SECONDS


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # A copy that pauses for long would be taken for whole, and this machine may pause by itself.
    monkeypatch.setattr(arrivals, "_WRITES", 1)
    monkeypatch.setattr(arrivals, "_WRITE_PAUSE_SECONDS", 0.0)
    output = tmp_path / "catalogue.json"
    counts = ["--models", "3", "--rounds", "2", "--among", "2", "--arrivals", "1"]
    monkeypatch.setattr(sys, "argv", ["bench.catalogue", *counts, "--output", str(output)])
    catalogue.main()
    document = json.loads(output.read_bytes())
    listings = document["listings"]
    assert [set(each) for each in listings] == [set(catalogue.FIGURES)] * 2
    assert all(taken["seconds"] > 0 and taken["cpu_seconds"] > 0 for each in listings for taken in each.values())
    among = [f"{kind} among 2{beside}" for beside in ("", " contended") for kind in ("moved", "copied", "removed")]
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [*catalogue.FIGURES, *among]
    kinds = ["moved", "copied", "removed", "removed"]
    assert [(each["kind"], each["is_contended"]) for each in document["arrivals"]] == [
        (kind, is_contended) for is_contended in (False, True) for kind in kinds
    ]
    # What is copied was written just now, and may go on for a while.
    copied = [each["seconds"] for each in document["arrivals"] if each["kind"] == "copied"]
    assert min(copied) > SETTLED_SECONDS - 0.1


def test_models_that_are_not_listed_end_it(tmp_path: Path) -> None:
    catalogue.write_models(tmp_path / "models", 2)
    (tmp_path / "models" / "model-00000.gguf").write_bytes(b"GGUF")
    with pytest.raises(SystemExit, match="2 models of 2 were listed, not all of them sound"):
        catalogue.measured(tmp_path, 2)


def test_a_model_that_does_not_come_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_LIMIT_SECONDS", 0.1)
    monkeypatch.setattr(arrivals, "_copied", lambda path: 0.0)
    with pytest.raises(SystemExit, match="no model was added within 0 s"):
        arrivals.arrivals(tmp_path, 0, 1)
