"""The server's own routes: whether it lives, whether it is ready, what it counts, and what all routes are."""

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from shimmy import __version__
from shimmy.core.keys import admin, infer, public
from shimmy.server.metrics import Metrics, diagnosis
from shimmy.server.protocol import json_response
from shimmy.server.readiness import Readiness


class Probes:
    def __init__(self, readiness: Readiness, metrics: Metrics) -> None:
        self._readiness = readiness
        self._metrics = metrics

    @public
    async def health(self, request: Request) -> Response:
        """Liveness: this process answers."""
        return json_response({"status": "ok", "version": __version__, **self._metrics.health()})

    @public
    async def readyz(self, request: Request) -> Response:
        return json_response(self._readiness.report(), 200 if self._readiness.state == "ready" else 503)

    @admin
    async def metrics(self, request: Request) -> Response:
        """Text for Prometheus, which says that it takes it; JSON for all others, as the original answered."""
        accept = request.headers.get("accept", "")
        if "text/plain" in accept or "openmetrics" in accept:
            return Response(self._metrics.text(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})
        return json_response(self._metrics.report())

    @infer
    async def diagnose(self, request: Request) -> Response:
        return json_response(diagnosis())


class Description:
    """Of all routes, made when it is first asked for."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        """`make` is called in a thread."""
        self._make = make
        self._document: bytes | None = None

    @infer
    async def get(self, request: Request) -> Response:
        if self._document is None:
            self._document = await asyncio.to_thread(self._make)
        return Response(self._document, media_type="application/json")
