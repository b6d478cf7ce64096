"""The cost of sampling is measured in all its cases; what it is depends on the machine."""

import pytest

from bench import samplers

pytestmark = pytest.mark.model


def test_every_case_has_four_figures(capsys: pytest.CaptureFixture[str]) -> None:
    samplers.main((500,))
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("500 tokens")
    assert [line[:20].strip() for line in lines] == list(samplers.CASES)
    for line in lines:
        assert all(float(figure.replace(",", "")) >= 0 for figure in line[20:].split()) and len(line[20:].split()) == 4
