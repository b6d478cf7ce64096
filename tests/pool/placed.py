"""A placement with fake workers and fake time, and what tests of it say to a worker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shimmy.core import ipc
from shimmy.pool.handle import Handle
from shimmy.pool.placement import Placement
from tests.fakes.clock import FakeTime
from tests.fakes.pool import fake_spawn, generation, text_of


@asynccontextmanager
async def placed(time: FakeTime | None = None, **collaborators: Any) -> AsyncIterator[Placement]:
    time = time or FakeTime()
    placement = Placement(
        ipc.EngineOptions(num_sequences=3), spawn=fake_spawn, clock=time.clock, sleep=time.sleep, **collaborators
    )
    try:
        yield placement
    finally:
        await placement.close()


async def say(handle: Handle, prompt: str) -> str:
    stream = await handle.submit(generation(prompt))
    return text_of([event async for batch in stream for event in batch])
