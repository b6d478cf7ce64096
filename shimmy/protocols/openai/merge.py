"""Several prompts of one request, generated side by side."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from shimmy.core.events import Event
from shimmy.protocols.openai.answer import Batches

Generations = Sequence[AsyncGenerator[list[Event], None]]


async def merge(generations: Generations) -> Batches:
    """Batches as they come, each with the number of its prompt. The first failure ends all."""
    if len(generations) == 1:
        async with aclosing(generations[0]) as batches:
            async for batch in batches:
                yield 0, batch
    else:
        async with aclosing(_merged(generations)) as merged:
            async for numbered in merged:
                yield numbered


async def _merged(generations: Generations) -> Batches:
    waiting = {_next(generation): number for number, generation in enumerate(generations)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                number = waiting.pop(task)
                if (batch := task.result()) is not None:
                    waiting[_next(generations[number])] = number
                    yield number, batch
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for generation in generations:
            await generation.aclose()


def _next(generation: AsyncGenerator[list[Event], None]) -> asyncio.Task[list[Event] | None]:
    async def step() -> list[Event] | None:
        return await anext(generation, None)

    return asyncio.create_task(step())
