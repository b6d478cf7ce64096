"""The measurement of switches: it sees those that happen, and what fails."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.client import Endpoint
from bench.swap import Load, Probe, Swapped, table, waits

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.model
def test_a_whole_run(tmp_path: Path) -> None:
    output = tmp_path / "swap.json"
    command = [sys.executable, "-m", "bench.swap", "--rounds", "1", "--streams", "2", "--output", str(output)]
    finished = subprocess.run(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, timeout=110)
    assert finished.returncode == 0, finished.stderr
    [result] = json.loads(output.read_text())["switches"]
    assert result["num_failed"] == 0 and result["switch_seconds"] > 0
    sent = [probe["sent_at_seconds"] for probe in result["probes"]]
    assert min(sent) < 0 < result["switch_seconds"] < max(sent)


def test_what_fails_is_counted_and_not_waited_for() -> None:
    async def test() -> None:
        # Nobody listens there.
        load = Load(Endpoint("http://127.0.0.1:1", "m"))
        running = asyncio.create_task(load.run(2))
        while len(load.failures) < 3:
            await asyncio.sleep(0.001)
        load.end()
        await running
        assert not load.probes

    asyncio.run(test())


def test_probes_during_the_switch_are_told_from_others() -> None:
    probes = [Probe(-2.0, 1.0, 0.5), Probe(-0.1, 2.0, 0.5), Probe(0.5, 3.0, 0.1), Probe(1.5, 4.0, 0.1)]
    result = Swapped(1, 1.0, 5, 0, 0.25, probes)
    assert waits(result, during=True) == [2.0, 3.0]
    assert waits(result, during=False) == [1.0, 4.0]
    heading, row = table([result]).splitlines()
    assert row.split() == ["1", "1.00", "5", "0", "250", "2.50", "3.00", "4.00"]
    assert len(row) == len(heading)
