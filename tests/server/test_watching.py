"""The model folders while a server runs: what comes and goes is noticed though nobody asks, and no request waits."""

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from tests.fakes.gguf_writer import model
from tests.fakes.instead import fake_workers
from tests.fakes.pool import fake_inference, run
from tests.program import LIMIT_SECONDS, Program, program

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


def ask(running: Program, name: str) -> int:
    body = json.dumps({"model": name, "prompt": "hi", "max_tokens": 1}).encode()
    try:
        with urllib.request.urlopen(f"{running.url}/v1/completions", body, timeout=LIMIT_SECONDS) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


@pytest.mark.program
@pytest.mark.slow
def test_a_file_that_is_being_copied_is_not_served_before_it_is_whole(tmp_path: Path) -> None:
    """Nor if the copying stops for so long that it looks like the end."""
    content = model().encode()
    (tmp_path / "models").mkdir()
    with program(tmp_path, environment=fake_workers()) as running:

        def status() -> str | None:
            listed = {each["id"]: each["status"] for each in running.get("/v1/models")["data"]}
            return listed.get("copied")

        with open(tmp_path / "models" / "copied.gguf", "wb", buffering=0) as file:
            for at in range(0, len(content), len(content) // 10):
                assert status() in (None, "invalid") and ask(running, "copied") in (404, 422)
                file.write(content[at : at + len(content) // 10])
        over = time.monotonic() + LIMIT_SECONDS
        while status() != "valid":
            assert time.monotonic() < over
            time.sleep(0.05)
        assert ask(running, "copied") == 200


def test_the_loop_turns_while_a_large_folder_is_scanned(tmp_path: Path) -> None:
    for number in range(NUM_FILES):
        os.close(os.open(tmp_path / f"{number}.gguf", os.O_CREAT))
    catalog = Catalog([Folder("x", str(tmp_path))])

    async def test() -> None:
        async with fake_inference(catalog=catalog) as inference:
            scan = asyncio.create_task(inference.models.refresh())
            num_turns = 0
            while not scan.done():
                num_turns += 1
                await asyncio.sleep(0.001)
            # If the loop did it itself, it would turn once before and once after.
            assert num_turns > 5

    run(test())
    assert len(catalog.models()) == NUM_FILES
