"""What listing models takes, for a few of them."""

import json
import sys
from pathlib import Path

import pytest

from bench import catalogue


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "catalogue.json"
    monkeypatch.setattr(sys, "argv", ["bench.catalogue", "--models", "3", "--rounds", "2", "--output", str(output)])
    catalogue.main()
    listings = json.loads(output.read_bytes())["listings"]
    assert [set(each) for each in listings] == [set(catalogue.FIGURES)] * 2
    assert all(taken["seconds"] > 0 and taken["cpu_seconds"] > 0 for each in listings for taken in each.values())
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == list(catalogue.FIGURES)


def test_models_that_are_not_listed_end_it(tmp_path: Path) -> None:
    catalogue.write_models(tmp_path / "models", 2)
    (tmp_path / "models" / "model-00000.gguf").write_bytes(b"GGUF")
    with pytest.raises(SystemExit, match="2 models of 2 were listed, not all of them sound"):
        catalogue.measured(tmp_path, 2)
