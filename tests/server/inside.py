"""A server in the test's own event loop: Hypercorn with the application on a free loopback port. Starts in no time, and
a test can take its parts, or bring parts of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from shimmy.core.settings import Settings
from shimmy.models.catalog import Catalog
from shimmy.models.folders import Folder
from shimmy.models.listing import Model
from shimmy.server.accept import Acceptor
from shimmy.server.app import App, build_app
from shimmy.server.assembly import acceptor, with_keys
from shimmy.server.inference import Inference
from shimmy.server.listen import listen
from shimmy.server.readiness import Readiness
from tests.fakes.pool import fake_inference
from tests.server.client import Live


class Inside(Live):
    def __init__(self, port: int, app: App, inference: Inference, readiness: Readiness, connections: Acceptor) -> None:
        super().__init__(port)
        self.connections = connections
        self.app = app
        self.inference = inference
        self.readiness = readiness

    async def until_active(self, count: int) -> None:
        while self.inference.num_active != count:
            await asyncio.sleep(0.005)

    async def until_idle(self) -> None:
        await self.app.finish(30)

    async def until_no_connections(self) -> None:
        while self.connections._tasks:
            await asyncio.sleep(0.005)


@asynccontextmanager
async def serve_inside(
    *models: Model | str,
    settings: Settings,
    folder: Path | None = None,
    keep_alive_seconds: float = 5.0,
    **engine: Any,
) -> AsyncIterator[Inside]:
    """What else is given goes to `fake_inference`. Hypercorn keeps a connection in mind for `keep_alive_seconds` even
    when it is closed."""
    if folder is not None:
        engine["catalog"] = Catalog([Folder("--model-dirs", str(folder))])
    async with fake_inference(*models, **engine) as inference:
        settings = with_keys(settings)
        listener = listen(settings)
        readiness = Readiness(inference)
        app = build_app(inference, settings, readiness, listener.host, listener.address)
        over = asyncio.Event()
        connections = acceptor(app, settings, listener, None)
        connections.config.keep_alive_timeout = keep_alive_seconds
        server = asyncio.create_task(connections.serve(over.wait))
        try:
            yield Inside(listener.port, app, inference, readiness, connections)
        finally:
            await inference.close()
            await app.finish(1.0)
            over.set()
            await server
