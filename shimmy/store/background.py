"""A pull for an event loop: it runs in a thread of its own, and what it reports is handed over. The loop's executor is
left alone: it has few threads, and a pull may take hours."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

from shimmy.core.pulling import Progress
from shimmy.store.manifests import Manifest
from shimmy.store.pull import Pull

TURN_SECONDS = 0.1
_END_SECONDS = 3.0

Make = Callable[[Callable[[Progress], None]], Pull]


async def progress(make: Make, name: str, revision: str | None = None) -> AsyncGenerator[Progress | Manifest, None]:
    """What the pull reports, of bytes only the latest at a time, and at last the manifest. Closing the generator
    cancels the pull and waits for its end. Raises what `Pull.run` does."""
    loop = asyncio.get_running_loop()
    reported: deque[Progress] = deque()
    news = asyncio.Event()
    ended: asyncio.Future[Manifest] = loop.create_future()

    def note(fresh: Progress) -> None:
        if reported and (reported[-1].status, reported[-1].digest) == (fresh.status, fresh.digest):
            reported.pop()
        reported.append(fresh)
        news.set()

    def tell(what: Callable[..., Any], *arguments: Any) -> None:
        # A loop that is closed has nobody who could be told.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(what, *arguments)

    def run() -> None:
        try:
            tell(ended.set_result, pull.run(name, revision))
        except BaseException as error:
            tell(_fail, ended, error)
        finally:
            tell(news.set)

    pull = make(lambda fresh: tell(note, fresh))
    threading.Thread(target=run, name="pull", daemon=True).start()
    try:
        while not ended.done() or reported:
            await news.wait()
            news.clear()
            while reported:
                yield reported.popleft()
            if not ended.done():
                await asyncio.sleep(TURN_SECONDS)
        yield ended.result()
    finally:
        if not ended.done():
            pull.cancel()
            # What waits for an address cannot be interrupted, and holds nothing that others need for long.
            await asyncio.wait({ended}, timeout=_END_SECONDS)


def _fail(ended: "asyncio.Future[Manifest]", error: BaseException) -> None:
    ended.set_exception(error)
    # It may be that nobody waits any more.
    ended.exception()
