"""What is paid once is measured in all its cases; what it is depends on the machine."""

import pytest

from bench import once

pytestmark = pytest.mark.model


def test_every_case_has_a_figure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "NUM_RUNS", 1)
    monkeypatch.setattr(once, "LARGE_VOCABULARY", 2000)
    once.main()
    lines = capsys.readouterr().out.splitlines()
    parts = [line for line in lines if not line.startswith(" ")]
    figures = [float(line[42:].removesuffix("ms")) for line in lines if line.startswith(" ")]
    assert parts == ["prefix", "vocabulary", "breakers"]
    assert len(figures) == 7 and all(figure > 0 for figure in figures)
