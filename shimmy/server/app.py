"""The ASGI application: each request passes the guards, then one route, and ends in exactly one answer.

What an error looks like is the protocols' business.
"""

import asyncio
import os
import re
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from shimmy import __version__
from shimmy.core.errors import MethodNotAllowed, NotFound, ShimmyError
from shimmy.core.settings import DEFAULT_HOST, Settings
from shimmy.protocols import native, ollama, openai
from shimmy.server.access import Access
from shimmy.server.body import Body
from shimmy.server.connection import Connection
from shimmy.server.guards import Guard
from shimmy.server.inference import Inference
from shimmy.server.metrics import Metrics, diagnosis, endpoint_of
from shimmy.server.readiness import Readiness
from shimmy.server.reply import Reply
from shimmy.server.streaming import ClientGone, internal_error

_WEBSOCKET = "/ws/generate"
_SWITCHED = 101
_CLIENT_GONE = 499  # nginx's number for it
_SANE_ID = re.compile(rb"[\w.:-]{1,128}", re.ASCII)


def build_app(
    inference: Inference,
    settings: Settings,
    readiness: Readiness | None = None,
    host: str = DEFAULT_HOST,
    address: str = DEFAULT_HOST,
) -> "App":
    """`host` and `address` are where the server is bound, by name and by IP address."""
    guard = Guard(settings.api_keys, host, address, _tenant_salt(settings))
    metrics = Metrics(inference)
    probes = Probes(readiness or Readiness(inference), metrics)
    routes = [Route("/health", probes.health), Route("/readyz", probes.readyz), *openai.routes(inference, settings)]
    others = ollama.routes(inference, settings)
    generate = next(route.endpoint for route in others if route.path == "/api/generate")
    # Before Ollama's, whose /api/generate it hands on to.
    routes += [*native.routes(inference, settings, generate), *others]
    routes += [Route("/metrics", probes.metrics), Route("/diag", probes.diagnose)]
    return App(routes, guard, settings, inference, metrics)


def _tenant_salt(settings: Settings) -> bytes | None:
    if not settings.kv_cache_bytes:
        return None
    from shimmy.server.disk_cache import tenant_salt

    return tenant_salt(settings)


class Probes:
    def __init__(self, readiness: Readiness, metrics: Metrics) -> None:
        self._readiness = readiness
        self._metrics = metrics

    async def health(self, request: Request) -> Response:
        """Liveness: this process answers."""
        return _json(200, {"status": "ok", "version": __version__, **self._metrics.health()})

    async def metrics(self, request: Request) -> Response:
        """Text for Prometheus, which says that it takes it; JSON for all others, as the original answered."""
        accept = request.headers.get("accept", "")
        if "text/plain" in accept or "openmetrics" in accept:
            return Response(self._metrics.text(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})
        return _json(200, self._metrics.report())

    async def diagnose(self, request: Request) -> Response:
        return _json(200, diagnosis())

    async def readyz(self, request: Request) -> Response:
        return _json(200 if self._readiness.state == "ready" else 503, self._readiness.report())


class App:
    def __init__(
        self, routes: list[Route], guard: Guard, settings: Settings, inference: Inference, metrics: Metrics
    ) -> None:
        self.routes = routes
        self._router = Router(routes, redirect_slashes=False)
        self._guard = guard
        self._settings = settings
        self._inference = inference
        self._metrics = metrics
        self._conversations: set[Connection] = set()
        self._replies: set[Reply] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def prepare(self) -> None:
        """Imports what requests will need; for a thread, once nobody waits for the start."""
        openai.prepare()
        ollama.prepare()
        native.prepare()

    async def finish(self, seconds: float) -> None:
        """Wait for the answers that are under way, at most `seconds`, and cut off the rest."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            for reply in list(self._replies):
                await reply.abandon()
        for connection in list(self._conversations):
            await connection.cut()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["path"] == _WEBSOCKET:
            await self._converse(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        from shimmy.protocols.native.websocket import Conversation

        access = Access(_request_id(scope), "WEBSOCKET", scope["path"])
        scope["state"] = {"access": access}
        connection = Connection(send)
        self._conversations.add(connection)
        try:
            scope["state"]["tenant"] = self._guard.check(scope)
            access.status = _SWITCHED
            await Conversation(self._inference, self._settings, scope, receive, send).run()
        except ClientGone:
            await connection.cut()
        except ShimmyError as error:
            access.status, access.error = error.status, error.code
            headers = [(b"content-type", b"application/json"), (b"x-request-id", access.id.encode())]
            await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": _encode_error(scope, error)})
        finally:
            self._conversations.discard(connection)
            access.log()
            self._metrics.note(access, scope["path"])

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = Access(_request_id(scope), scope["method"], scope["path"])
        scope["state"] = {"access": access}
        scope["app"] = self  # or Starlette answers 404 and 405 itself, in plain text, and does not raise them
        connection = Connection(send)
        reply = Reply(send, connection, access, self._settings.stall_seconds)
        self._replies.add(reply)
        self._idle.clear()
        try:
            await self._route(scope, Body(connection.watch(receive), self._settings.max_body_bytes), reply)
        except ClientGone:
            access.status = _CLIENT_GONE
        finally:
            await connection.settle()
            access.log()
            self._metrics.note(access, endpoint_of(scope))
            self._replies.remove(reply)
            if not self._replies:
                self._idle.set()

    async def _route(self, scope: Scope, body: Body, reply: Reply) -> None:
        try:
            scope["state"]["tenant"] = self._guard.check(scope)
            await body.read(scope, self._settings.body_seconds)
            await self._router(scope, body.replay, reply)
        except ClientGone:
            raise
        except Exception as exception:
            error = _as_shimmy(exception, scope)
            await reply.refuse(error, _encode_error(scope, error), body, scope["http_version"])


def _encode_error(scope: Scope, error: ShimmyError) -> bytes:
    """In the shape of the protocol that the path belongs to."""
    if scope["path"].startswith(("/api/", "/ws/")):
        return ollama.encode_error(error)
    return openai.encode_error(error)


def _as_shimmy(error: Exception, scope: Scope) -> ShimmyError:
    if isinstance(error, ShimmyError):
        return error
    if isinstance(error, HTTPException) and error.status_code == 404:
        return NotFound(f"there is no {scope['path']}")
    if isinstance(error, HTTPException) and error.status_code == 405:
        allow = ", ".join(sorted((error.headers or {})["Allow"].split(", ")))
        return MethodNotAllowed(f"{scope['path']} takes {allow}, not {scope['method']}", allow=allow)
    return internal_error(error, scope["state"]["access"].id)


def _request_id(scope: Scope) -> str:
    """The client's own, if it could have been one of ours."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value.decode())
    return f"req_{os.urandom(12).hex()}"


def _json(status: int, content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def _lifespan(receive: Receive, send: Send) -> None:
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})
