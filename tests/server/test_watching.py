"""The model folders while a server runs: what comes and goes is noticed though nobody asks, and no request waits."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from tests.fakes.gguf_writer import model
from tests.fakes.pool import fake_inference, run
from tests.program import LIMIT_SECONDS, program

NUM_FILES = 10_000


def until_said(log: Path, text: str) -> None:
    over = time.monotonic() + LIMIT_SECONDS
    while text not in log.read_text():
        assert time.monotonic() < over, log.read_text()
        time.sleep(0.05)


@pytest.mark.program
@pytest.mark.slow
def test_files_come_and_go_while_nobody_asks(tmp_path: Path) -> None:
    log = tmp_path / "stderr.txt"
    model().write(tmp_path / "models" / "first.gguf")
    with program(tmp_path) as running:
        # What the first scan finds is not new.
        assert {each["id"] for each in running.get("/v1/models")["data"]} == {"first"}
        model().write(tmp_path / "models" / "below" / "second.gguf")
        until_said(log, "INFO added: second")
        assert {each["id"] for each in running.get("/v1/models")["data"]} == {"first", "second"}
        (tmp_path / "models" / "first.gguf").unlink()
        until_said(log, "INFO removed: first")
        assert {each["id"] for each in running.get("/v1/models")["data"]} == {"second"}


def test_the_loop_turns_while_a_large_folder_is_scanned(tmp_path: Path) -> None:
    for number in range(NUM_FILES):
        os.close(os.open(tmp_path / f"{number}.gguf", os.O_CREAT))
    catalog = Catalog([Folder("x", str(tmp_path))])

    async def test() -> None:
        async with fake_inference(catalog=catalog) as inference:
            scan = asyncio.create_task(inference.refresh())
            num_turns = 0
            while not scan.done():
                num_turns += 1
                await asyncio.sleep(0.001)
            # If the loop did it itself, it would turn once before and once after.
            assert num_turns > 20

    run(test())
    assert len(catalog.models()) == NUM_FILES
