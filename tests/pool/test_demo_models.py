"""Placement with the real worker: copies of the demo model, one of which fits into memory, one that is replaced under
load, and one with two workers."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from shimmy.core import ipc
from shimmy.core.events import Event
from shimmy.core.request import Sampling, Text
from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from shimmy.pool.admission import Admission
from shimmy.pool.estimate import estimate
from shimmy.pool.placement import Placement
from shimmy.server.inference import Inference
from tests.fakes.pool import children, collect, generation, run, text_of
from tests.program import DEMO

pytestmark = pytest.mark.model

GREEDY = Sampling(temperature=0)
STREAMS = 8
OPTIONS = ipc.EngineOptions(context_length=2048, num_sequences=STREAMS)


def copied(folder: Path, *names: str) -> Catalog:
    for name in names:
        shutil.copyfile(DEMO, folder / f"{name}.gguf")
    catalog = Catalog([Folder("--model-dirs", str(folder))])
    catalog.refresh()
    return catalog


def test_of_two_models_one_fits_and_what_it_takes_is_what_was_estimated(tmp_path: Path) -> None:
    catalog = copied(tmp_path, "one", "two")
    needed = estimate(catalog.find("one"), OPTIONS).total_bytes

    async def test() -> None:
        placement = Placement(OPTIONS, memory_limit_bytes=needed * 3 // 2)
        inference = Inference(catalog, placement, Admission(64))
        try:
            for model in ("one", "two", "one"):
                assert await collect(inference, generation("Hi", model=model, max_tokens=2))
                assert [status.id for status in inference.models.statuses() if status.state == "ready"] == [model]
                assert len(children()) == 1
                # It is compared with what the system says once the model is loaded.
                assert needed / 1.5 < inference.models.usage().taken_bytes < needed * 1.5
            assert placement.tally["evictions"] == 2
        finally:
            await inference.close()

    run(test())


def test_eight_streams_do_not_notice_that_their_model_is_replaced(tmp_path: Path) -> None:
    catalog = copied(tmp_path, "model")

    async def stream(inference: Inference, number: int, over: asyncio.Event) -> int:
        num_ended = 0
        while not over.is_set():
            request = generation("", model="model", max_tokens=8)
            prompt = Text(f"Story number {number}, chapter {num_ended}: once upon a time")
            events = await collect(inference, type(request)(id=request.id, model="model", prompt=prompt, max_tokens=8))
            assert events
            num_ended += 1
        return num_ended

    async def test() -> None:
        inference = Inference(catalog, Placement(OPTIONS), Admission(64))
        over = asyncio.Event()
        try:
            await inference.models.preload("model")
            streams = [asyncio.create_task(stream(inference, number, over)) for number in range(STREAMS)]
            first = children()
            shutil.copyfile(DEMO, tmp_path / "fresh")
            os.replace(tmp_path / "fresh", tmp_path / "model.gguf")
            await inference.models.load("model")
            while first & children():
                await asyncio.sleep(0.01)
            over.set()
            assert all(num_ended > 0 for num_ended in await asyncio.gather(*streams))
            switch = (await inference.models.status("model")).switch
            assert switch is not None and switch.state == "done"
        finally:
            over.set()
            await inference.close()

    run(test())


def test_two_workers_share_the_requests_and_one_of_them_answers_alone(tmp_path: Path) -> None:
    catalog = copied(tmp_path, "model")

    async def test() -> None:
        inference = Inference(catalog, Placement(OPTIONS, num_workers=2), Admission(64))

        async def tell() -> list[Event]:
            return await collect(
                inference, generation("Tell me a story", model="model", max_tokens=32, sampling=GREEDY)
            )

        try:
            await inference.models.preload("model")
            while (await inference.models.status("model")).num_workers < 2:
                await asyncio.sleep(0.01)
            used = {pid: cpu_seconds(pid) for pid in children()}
            answers = await asyncio.gather(*(tell() for _ in range(4)))
            assert all(cpu_seconds(pid) > seconds for pid, seconds in used.items())
            assert len(used) == 2 and all(map(text_of, answers))
            os.kill(min(used), signal.SIGKILL)
            assert text_of(await tell())
            while min(used) in children() or (await inference.models.status("model")).num_workers < 2:
                await asyncio.sleep(0.01)
            assert max(used) in children()
        finally:
            await inference.close()

    run(test())


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
