"""A pull for an event loop."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from shimmy.core.errors import PullFailed
from shimmy.core.pulling import Progress
from shimmy.store.background import progress
from shimmy.store.http import Cancelled
from shimmy.store.manifests import Manifest, Part, Provenance

MANIFEST = Manifest("a:1", (Part("m.gguf", 3, "0" * 64),), Provenance("https://hf.co/a/b", "2026-11-21T00:00:00Z"))


class FakePull:
    """Reports what it is given, then ends as it is told."""

    def __init__(self, report: Callable[[Progress], None], statuses: list[Progress], end: BaseException | None) -> None:
        self._report = report
        self._statuses = statuses
        self._end = end
        self.cancelled = threading.Event()

    def run(self, name: str, revision: str | None) -> Manifest:
        for each in self._statuses:
            self._report(each)
        if isinstance(self._end, Cancelled):
            self.cancelled.wait(30)
        if self._end:
            raise self._end
        return MANIFEST

    def cancel(self) -> None:
        self.cancelled.set()


def collected(statuses: list[Progress], end: BaseException | None = None) -> list[Any]:
    async def main() -> list[Any]:
        make: Any = lambda report: FakePull(report, statuses, end)  # noqa: E731
        return [each async for each in progress(make, "a:1")]

    return asyncio.run(main())


def bytes_of(completed: int) -> Progress:
    return Progress("pulling", "0" * 64, "m", 9, completed)


def test_no_status_is_lost_and_of_bytes_the_latest_is_told() -> None:
    statuses = [Progress("one"), *map(bytes_of, range(1000)), Progress("two")]
    found = collected(statuses)
    assert found[-1] == MANIFEST
    told = [each for each in found if isinstance(each, Progress)]
    assert [each.status for each in told if not each.digest] == ["one", "two"]
    counts = [each.completed for each in told if each.digest]
    assert counts[-1] == 999 and len(counts) < 100


def test_what_it_fails_with_is_raised() -> None:
    with pytest.raises(PullFailed, match="broken"):
        collected([Progress("one")], PullFailed("broken"))


def test_closing_cancels_it() -> None:
    async def main() -> None:
        made: list[FakePull] = []

        def make(report: Callable[[Progress], None]) -> Any:
            made.append(FakePull(report, [Progress("one")], Cancelled()))
            return made[0]

        async with aclosing(progress(make, "a:1")) as reported:
            assert await anext(reported) == Progress("one")
        assert made[0].cancelled.is_set()

    asyncio.run(main())
