"""What happens to a model of the store, as Ollama's objects, one for each line."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec


async def lines(happening: AsyncGenerator[Any, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(happening) as reported:
        async for progress in reported:
            yield msgspec.json.encode(_shown(progress)) + b"\n"


async def last(lines: AsyncGenerator[bytes, None]) -> bytes:
    """The last line alone, for who wants no stream."""
    found = b"{}"
    async with aclosing(lines):
        async for line in lines:
            found = line
    return found.rstrip()


def _shown(progress: Any) -> dict[str, Any]:
    """Of what is written by this server itself there is no digest until it is whole."""
    shown = {"status": progress.status}
    if progress.digest is not None:
        shown["digest"] = f"sha256:{progress.digest}"
    if progress.total is not None:
        shown |= {"total": progress.total, "completed": progress.completed}
    return shown
