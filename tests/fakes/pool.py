"""A whole engine over fake workers: `run(test)` one coroutine that uses `fake_inference(...)`.

Workers are real processes (see worker.py for what a prompt can make them do); models are names without files, or, from
`scripted_model`, files that say how loading goes.
"""

import asyncio
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from shimmy.core import ipc
from shimmy.core.errors import ModelInvalid, ModelNotFound
from shimmy.core.events import Event, TextDelta
from shimmy.core.request import Chat, Generation, Message
from shimmy.models.catalog import Catalog
from shimmy.models.listing import Change, Identity, Model
from shimmy.pool.admission import Admission
from shimmy.pool.command import worker_environment
from shimmy.pool.placement import Placement
from shimmy.pool.process import OnEnd, OnMessage, WorkerProcess, spawn
from shimmy.server.inference import Inference
from tests.fakes import gguf_writer

# Without typing_extensions, which msgspec imports where it finds it, a worker starts in three quarters of the time.
START = "import sys; sys.modules['typing_extensions'] = None; from tests.fakes import worker; worker.main()"
LIMIT_SECONDS = 100
T = TypeVar("T")


async def fake_spawn(on_message: OnMessage, on_end: OnEnd) -> WorkerProcess:
    return await spawn([sys.executable, "-c", START], worker_environment(os.environ), on_message, on_end)


class FakeCatalog(Catalog):
    """Lists `available` as it was at the last refresh; counts the refreshes."""

    def __init__(self, *available: Model) -> None:
        super().__init__([])
        self.available = list(available)
        self.num_refreshes = -1
        self.refresh()

    def refresh(self) -> list[Change]:
        self.num_refreshes += 1
        self._listed = {model.id: model for model in self.available}
        return []

    def models(self) -> list[Model]:
        return sorted(self._listed.values(), key=lambda model: model.id)

    def named(self) -> list[tuple[str, Model]]:
        return [(model.id, model) for model in self.models()]

    def find(self, name: str) -> Model:
        model = self.look_up(name)
        if model is None:
            raise ModelNotFound(f"the model {name!r} does not exist; {self._available()}", param="model")
        if model.invalid is not None:
            raise ModelInvalid(f"the model {model.id!r} cannot be served: {model.invalid}", param="model")
        return model

    def look_up(self, name: str) -> Model | None:
        return self._listed.get(name.removesuffix(":latest"))

    def searched(self) -> list[str]:
        return ["models dir: /fake"]


def fake_model(id: str, *, path: Path | None = None, invalid: str | None = None) -> Model:
    """A listed model; without a file its worker loads at once."""
    identity: Identity = ()
    if path is not None:
        status = path.stat()
        identity = ((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns),)
    return Model(
        id=id,
        paths=(str(path or f"/fake/{id}.gguf"),),
        size_bytes=1000,
        modified_unix=1_700_000_000.0,
        source="models dir",
        identity=identity,
        facts=None,
        invalid=invalid,
    )


def scripted_model(id: str, folder: Path, load: str) -> Model:
    """A model whose file tells the worker how loading goes, a sound one but for that; writing it anew makes another
    identity."""
    path = folder / f"{id}.gguf"
    written = gguf_writer.model(fake__load=load).write(folder / f"{id}.new")
    # The clock of the file system stands still for milliseconds, and the number of a file that is gone comes again.
    now_ns = time.time_ns()
    os.utime(written, ns=(now_ns, now_ns))
    written.replace(path)
    return fake_model(id, path=path)


@asynccontextmanager
async def fake_inference(
    *models: Model | str,
    catalog: Catalog | None = None,
    options: ipc.EngineOptions | None = None,
    max_requests: int = 64,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    spawn: Callable[[OnMessage, OnEnd], Awaitable[WorkerProcess]] = fake_spawn,
    queue_seconds: float | None = None,
    memory_limit_bytes: int | None = None,
    num_workers: int = 1,
    hang_seconds: float = math.inf,
) -> AsyncIterator[Inference]:
    """The real facade over fake workers, closed at the end. Without arguments there is one model, "echo"."""
    known = [fake_model(model) if isinstance(model, str) else model for model in models or ("echo",)]
    placement = Placement(
        options or ipc.EngineOptions(),
        spawn=spawn,
        clock=clock,
        sleep=sleep,
        memory_limit_bytes=memory_limit_bytes,
        num_workers=num_workers,
        hang_seconds=hang_seconds,
    )
    admission = Admission(max_requests)
    inference = Inference(catalog or FakeCatalog(*known), placement, admission, clock, queue_seconds=queue_seconds)
    try:
        yield inference
    finally:
        await inference.close()


_ids = iter(range(1, 1 << 60))


def generation(prompt: str, *, model: str = "echo", **fields: Any) -> Generation:
    """A chat request with one user message."""
    fields.setdefault("id", f"request-{next(_ids)}")
    return Generation(model=model, prompt=Chat([Message("user", prompt)]), **fields)


async def collect(inference: Inference, request: Generation) -> list[Event]:
    """All events of a request."""
    return [event async for batch in inference.generate(request) for event in batch]


async def answer(inference: Inference, prompt: str, **fields: Any) -> str:
    """The text of choice 0."""
    return text_of(await collect(inference, generation(prompt, **fields)))


def text_of(events: list[Event], index: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta) and event.index == index)


# Children of this process that are none of the running test's.
_others: set[int] = set()


def run(test: Coroutine[Any, Any, T]) -> T:
    """Runs a test to its end, within a limit, and checks that it leaves no process behind."""

    async def limited() -> T:
        async with asyncio.timeout(LIMIT_SECONDS):
            return await test

    global _others
    _others = set()
    _others = children()
    result = asyncio.run(limited())
    assert not children(), "the test left worker processes behind"
    return result


def children() -> set[int]:
    """Process ids of the children that the running test has, living or unreaped (Linux only)."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        # A thread may end meanwhile.
        with suppress(FileNotFoundError):
            found.update(map(int, path.read_text().split()))
    return found - _others
