"""The ASGI application: each request passes the guards, then one route, and ends in exactly one answer.

What an error looks like is the protocols' business.
"""

import asyncio
import os
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from shimmy import __version__
from shimmy.core.errors import MethodNotAllowed, NotFound, ShimmyError, Unavailable
from shimmy.core.keys import ApiKey, admin, infer, needed_scope, public
from shimmy.core.settings import DEFAULT_HOST, Settings
from shimmy.protocols import anthropic, native, ollama, openai
from shimmy.server.access import Access
from shimmy.server.body import Body
from shimmy.server.connection import Connection
from shimmy.server.guards import Guard
from shimmy.server.inference import Inference
from shimmy.server.limits import Limits
from shimmy.server.metrics import Metrics, diagnosis, endpoint_of
from shimmy.server.origins import is_preflight, preflight_headers
from shimmy.server.readiness import Readiness
from shimmy.server.reply import Reply
from shimmy.server.streaming import ClientGone, internal_error

if TYPE_CHECKING:
    from shimmy.core.operation import Operation
    from shimmy.protocols.grpc import Services

_GRPC = b"application/grpc"
_PUBLIC_CALLS = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"})
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
    """`host` and `address` are where the server is bound, by name and by IP address, or both by a socket's path."""
    guard = Guard(settings.api_keys, host, address, origins=settings.cors_origins, salt=_tenant_salt(settings))
    readiness = readiness or Readiness(inference)
    metrics = Metrics(inference)
    probes = Probes(readiness, metrics)
    routes = [
        Route("/health", probes.health),
        Route("/readyz", probes.readyz),
        *openai.routes(inference, settings),
        *anthropic.routes(inference, settings),
    ]
    others = ollama.routes(inference, settings)
    generate = next(route.endpoint for route in others if route.path == "/api/generate")
    # Before Ollama's, whose /api/generate it hands on to.
    routes += [*native.routes(inference, settings, generate), *others]
    routes += [Route("/metrics", probes.metrics), Route("/diag", probes.diagnose)]
    routes.append(Route("/openapi.json", Description(routes).get))

    @cache
    def services() -> "Services":
        from shimmy.protocols.grpc import Services

        return Services(inference, lambda: readiness.state)

    return App(routes, guard, settings, inference, metrics, services)


def _tenant_salt(settings: Settings) -> bytes | None:
    if not settings.kv_cache_bytes:
        return None
    from shimmy.server.disk_cache import tenant_salt

    return tenant_salt(settings)


class Probes:
    def __init__(self, readiness: Readiness, metrics: Metrics) -> None:
        self._readiness = readiness
        self._metrics = metrics

    @public
    async def health(self, request: Request) -> Response:
        """Liveness: this process answers."""
        return _json(200, {"status": "ok", "version": __version__, **self._metrics.health()})

    @admin
    async def metrics(self, request: Request) -> Response:
        """Text for Prometheus, which says that it takes it; JSON for all others, as the original answered."""
        accept = request.headers.get("accept", "")
        if "text/plain" in accept or "openmetrics" in accept:
            return Response(self._metrics.text(), headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"})
        return _json(200, self._metrics.report())

    @infer
    async def diagnose(self, request: Request) -> Response:
        return _json(200, diagnosis())

    @public
    async def readyz(self, request: Request) -> Response:
        return _json(200 if self._readiness.state == "ready" else 503, self._readiness.report())


class Description:
    """Of all routes, made when it is first asked for."""

    def __init__(self, routes: list[Route]) -> None:
        self._routes = routes
        self._document: bytes | None = None

    @infer
    async def get(self, request: Request) -> Response:
        if self._document is None:
            from shimmy.server.openapi import document

            self._document = await asyncio.to_thread(lambda: document(self._routes, operations()))
        return Response(self._document, media_type="application/json")


def operations() -> "dict[str, Operation]":
    """Of all protocols, by path."""
    return openai.operations() | anthropic.operations() | ollama.operations() | native.operations()


class App:
    def __init__(
        self,
        routes: list[Route],
        guard: Guard,
        settings: Settings,
        inference: Inference,
        metrics: Metrics,
        services: "Callable[[], Services]",
    ) -> None:
        """`services` are those of gRPC, made when the first call comes."""
        self._services = services
        self.routes = routes
        self._guard = guard
        self._settings = settings
        self._limits = Limits()
        self._inference = inference
        self._metrics = metrics
        self._conversations: set[Connection] = set()
        inference.meter = self._limits.meter
        self._limits.set(guard.tenants)
        self._replies: set[Reply] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def prepare(self) -> None:
        """Imports what requests will need; for a thread, once nobody waits for the start."""
        openai.prepare()
        anthropic.prepare()
        ollama.prepare()
        native.prepare()

    @staticmethod
    def too_many_connections() -> bytes:
        """The body of an answer to who is turned away before a request was read."""
        return openai.encode_error(Unavailable("there are too many connections"))

    def replace_keys(self, api_keys: tuple[ApiKey, ...]) -> None:
        """From the next request on."""
        self._guard.replace_keys(api_keys)
        self._limits.set(self._guard.tenants)
        self._inference.share_among(len(self._guard.tenants))

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
            self._guard.enter(scope)
            caller = self._guard.identify(scope)
            access.key = caller.name or None
            self._guard.permit(caller, "infer")
            scope["state"]["tenant"] = caller.tenant
            access.status = _SWITCHED
            with self._limits.hold(caller.tenant):
                await Conversation(self._inference, self._settings, scope, receive, connection.heed(send)).run()
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
        connection = Connection(send)
        reply = Reply(send, connection, access, self._settings.stall_seconds, _id_headers(scope))
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
            if _is_call(scope):
                return await self._call(scope, body, reply)
            reply.headers = [*self._guard.cors(scope)]
            # What a route has to say beside its answer, whatever form that has.
            scope["state"]["headers"] = reply.headers
            self._guard.enter(scope)
            if is_preflight(scope["method"], dict(scope["headers"])):
                self._guard.check_preflight(scope)
                answer = preflight_headers(dict(scope["headers"]), self._methods(scope))
                return await reply.empty(answer, body)
            await self._serve(scope, body, reply)
        except ClientGone:
            raise
        except Exception as exception:
            error = _as_shimmy(exception, scope)
            await reply.refuse(error, _encode_error(scope, error), body, scope["http_version"])

    async def _serve(self, scope: Scope, body: Body, reply: Reply) -> None:
        route = self._find(scope)
        needed = needed_scope(route.endpoint) if route else None
        if route is not None and needed == "public":
            return await self._run(route, scope, body, reply)
        caller = self._guard.identify(scope)
        scope["state"]["access"].key = caller.name or None
        if route is None:
            raise self._missing(scope)
        self._guard.permit(caller, needed)
        scope["state"]["tenant"] = caller.tenant
        with self._limits.hold(caller.tenant):
            await self._run(route, scope, body, reply)

    async def _run(self, route: Route, scope: Scope, body: Body, reply: Reply) -> None:
        await body.read(scope, self._settings.body_seconds)
        await route.app(scope, body.replay, reply)

    def _find(self, scope: Scope) -> Route | None:
        for route in self.routes:
            match, child_scope = route.matches(scope)
            if match is Match.FULL:
                scope.update(child_scope)
                return route
        return None

    def _missing(self, scope: Scope) -> ShimmyError:
        if methods := self._methods(scope):
            return MethodNotAllowed(f"{scope['path']} takes {methods}, not {scope['method']}", allow=methods)
        return NotFound(f"there is no {scope['path']}")

    def _methods(self, scope: Scope) -> str:
        """What the path takes, whatever the method."""
        matching = (route for route in self.routes if route.matches(scope)[0] is not Match.NONE)
        return ", ".join(sorted({method for route in matching for method in route.methods or ()}))

    async def _call(self, scope: Scope, body: Body, reply: Reply) -> None:
        """A gRPC call tells its errors in trailers."""
        from shimmy.protocols.grpc import Call

        call = Call(self._services(), scope, reply, self._settings.max_body_bytes)
        try:
            self._guard.enter(scope)
            tenant = self._admit_call(scope)
            scope["state"]["tenant"] = tenant
            with self._limits.hold(tenant):
                method = call.method
                if not method.conversation:
                    await body.read(scope, self._settings.body_seconds)
                await call.run(method, body.replay)
        except ClientGone:
            raise
        except Exception as exception:
            error = _as_shimmy(exception, scope)
            scope["state"]["access"].error = error.code
            await call.fail(error, body.discard)

    def _admit_call(self, scope: Scope) -> str:
        """The tenant. Only the health service is for everyone."""
        if scope["path"] in _PUBLIC_CALLS:
            return ""
        caller = self._guard.identify(scope)
        scope["state"]["access"].key = caller.name or None
        self._guard.permit(caller, "infer")
        return caller.tenant


def _is_anthropic(scope: Scope) -> bool:
    path: str = scope["path"]
    return path == anthropic.PATH or path.startswith(f"{anthropic.PATH}/")


def _encode_error(scope: Scope, error: ShimmyError) -> bytes:
    """In the shape of the protocol that the path belongs to."""
    if _is_anthropic(scope):
        return anthropic.encode_error(error, scope["state"]["access"].id)
    if scope["path"].startswith(("/api/", "/ws/")):
        return ollama.encode_error(error)
    return openai.encode_error(error)


def _id_headers(scope: Scope) -> tuple[bytes, ...]:
    own = (anthropic.REQUEST_ID,) if _is_anthropic(scope) else ()
    return (b"x-request-id", *own)


def _is_call(scope: Scope) -> bool:
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    # Not "application/grpc-web", which is another protocol.
    return content_type.startswith(_GRPC) and content_type[len(_GRPC) :][:1] in (b"", b"+", b";")


def _as_shimmy(error: Exception, scope: Scope) -> ShimmyError:
    return error if isinstance(error, ShimmyError) else internal_error(error, scope["state"]["access"].id)


def _request_id(scope: Scope) -> str:
    """The client's own, if it could have been one of ours."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value.decode())
    return f"req_{os.urandom(12).hex()}"


def _json(status: int, content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
