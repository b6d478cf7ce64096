"""The ASGI application: each request passes the guards, then one route, and ends in exactly one answer.

What an error looks like is the protocols' business.
"""

import asyncio
import os
import re
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING

from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from shimmy.core.errors import MethodNotAllowed, NotFound, RequestError, ShimmyError
from shimmy.core.keys import ApiKey, needed_scope
from shimmy.core.settings import DEFAULT_HOST, Settings
from shimmy.protocols.anthropic import Anthropic
from shimmy.protocols.native import WEBSOCKET, Native
from shimmy.protocols.ollama import Ollama
from shimmy.protocols.openai import OpenAI
from shimmy.server import keep_alive
from shimmy.server.access import Access
from shimmy.server.body import Body
from shimmy.server.connection import Connection
from shimmy.server.guards import Guard
from shimmy.server.inference import Inference
from shimmy.server.keyring import Caller
from shimmy.server.limits import Limits
from shimmy.server.metrics import Metrics, endpoint_of
from shimmy.server.origins import is_preflight, preflight_headers
from shimmy.server.probes import Description, Probes
from shimmy.server.protocol import Protocol, Upload
from shimmy.server.readiness import Readiness
from shimmy.server.reply import Reply
from shimmy.server.streaming import ClientGone, internal_error

if TYPE_CHECKING:
    from shimmy.protocols.grpc import Services

_GRPC = b"application/grpc"
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
    return App(inference, settings, guard, readiness or Readiness(inference))


def _tenant_salt(settings: Settings) -> bytes | None:
    if not settings.kv_cache_bytes:
        return None
    from shimmy.server.disk_cache import tenant_salt

    return tenant_salt(settings)


class App:
    """`protocols` and `routes` are in the order in which they are asked whether a request is theirs."""

    def __init__(self, inference: Inference, settings: Settings, guard: Guard, readiness: Readiness) -> None:
        self._inference = inference
        self._settings = settings
        self._guard = guard
        self._readiness = readiness
        self._limits = Limits()
        self._limits.set(guard.tenants)
        inference.meter = self._limits.meter
        self._metrics = Metrics(inference)
        ollama = Ollama(inference, settings)
        self._native = Native(inference, settings, lambda: ollama.generates.create)
        # OpenAI's errors are for all that is nobody else's.
        self.protocols = (Anthropic(inference, settings), self._native, ollama, OpenAI(inference, settings))
        self.routes = self._probes() + [route for protocol in self.protocols for route in protocol.routes()]
        # Most paths are one route's; where a path has parameters, or a method is not that route's, all are looked at.
        self._by_path: dict[str, list[Route]] = {}
        for route in self.routes:
            self._by_path.setdefault(route.path, []).append(route)
        self._conversations: set[Connection] = set()
        self._replies: set[Reply] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    def _probes(self) -> list[Route]:
        probes = Probes(self._readiness, self._metrics)
        return [
            Route("/health", probes.health),
            Route("/readyz", probes.readyz),
            Route("/metrics", probes.metrics),
            Route("/diag", probes.diagnose),
            Route("/openapi.json", Description(self.describe).get),
        ]

    @cached_property
    def _services(self) -> "Services":
        """Those of gRPC, imported by the first call."""
        from shimmy.protocols.grpc import Services

        return Services(self._inference, self._settings, lambda: self._readiness.state)

    def prepare(self) -> None:
        """Imports what requests will need; for a thread, once nobody waits for the start."""
        from shimmy.core import unknown_fields

        for protocol in self.protocols:
            protocol.prepare()
        unknown_fields.prepare()

    def describe(self) -> bytes:
        """The OpenAPI document."""
        from shimmy.server.openapi import document

        described = [protocol.operations() for protocol in self.protocols]
        operations = {path: each for operations in described for path, each in operations.items()}
        return document(self.routes, operations, self._example_error)

    def _example_error(self, path: str) -> tuple[str, bytes]:
        """The name of the protocol whose errors a path has, and one of them."""
        owner = next(each for each in self.protocols if each.owns({"path": path, "headers": []}))
        return type(owner).__name__, owner.encode_error(ShimmyError("..."), "req_0")

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
        elif scope["path"] == WEBSOCKET:
            await self._converse(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _converse(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = Access(_request_id(scope), "WEBSOCKET", scope["path"])
        scope["state"] = {"access": access}
        connection = Connection(send)
        self._conversations.add(connection)
        try:
            self._guard.enter(scope)
            _refuse_body(scope)
            with self._admitted(scope, self._identified(scope), "infer"):
                access.status = _SWITCHED
                await self._native.converse(scope, receive, connection.heed(send))
        except ClientGone:
            await connection.cut()
        except ShimmyError as error:
            access.status, access.error = error.status, error.code
            headers = [(b"content-type", b"application/json"), (b"x-request-id", access.id.encode())]
            await send({"type": "websocket.http.response.start", "status": error.status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": self._encoded(error, scope)})
        finally:
            self._conversations.discard(connection)
            access.log()
            self._metrics.note(access, scope["path"])

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        access = Access(_request_id(scope), scope["method"], scope["path"])
        scope["state"] = {"access": access}
        connection = Connection(send)
        reply = Reply(send, connection, access, self._settings.stall_seconds, self._owner(scope).id_headers)
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
            await reply.refuse(error, self._encoded(error, scope), body, scope["http_version"])

    async def _serve(self, scope: Scope, body: Body, reply: Reply) -> None:
        route = self._find(scope)
        if route is not None and needed_scope(route.endpoint) == "public":
            return await self._run(route, scope, body, reply)
        caller = self._identified(scope)
        if route is None:
            raise self._missing(scope)
        with self._admitted(scope, caller, needed_scope(route.endpoint)):
            await self._run(route, scope, body, reply)

    def _identified(self, scope: Scope) -> Caller:
        caller = self._guard.identify(scope)
        scope["state"]["access"].key = caller.name or None
        return caller

    def _admitted(self, scope: Scope, caller: Caller, needed: str | None) -> AbstractContextManager[None]:
        """Within its limits. Raises what keeps it out."""
        self._guard.permit(caller, needed)
        scope["state"]["tenant"] = caller.tenant
        # For routes of which only a part takes more than they declare.
        scope["state"]["permit"] = partial(self._guard.permit, caller)
        keep_alive.hear(scope)
        return self._limits.hold(caller.tenant)

    async def _run(self, route: Route, scope: Scope, body: Body, reply: Reply) -> None:
        if not isinstance(route, Upload):
            await body.read(scope, self._settings.body_seconds)
        await route.app(scope, body.replay, reply)

    def _find(self, scope: Scope) -> Route | None:
        for route in chain(self._by_path.get(scope["path"], ()), self.routes):
            match, child_scope = route.matches(scope)
            if match is Match.FULL:
                scope.update(child_scope)
                scope["state"]["route"] = route.path
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

        call = Call(self._services, scope, reply, self._settings.max_body_bytes)
        try:
            self._guard.enter(scope)
            with self._admitted_call(scope, call.needed_scope):
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

    def _admitted_call(self, scope: Scope, needed: str) -> AbstractContextManager[None]:
        if needed != "public":
            return self._admitted(scope, self._identified(scope), needed)
        scope["state"]["tenant"] = ""
        return nullcontext()

    def _owner(self, scope: Scope) -> Protocol:
        return next(protocol for protocol in self.protocols if protocol.owns(scope))

    def _encoded(self, error: ShimmyError, scope: Scope) -> bytes:
        return self._owner(scope).encode_error(error, scope["state"]["access"].id)


def _is_call(scope: Scope) -> bool:
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    # Not "application/grpc-web", which is another protocol.
    return content_type.startswith(_GRPC) and content_type[len(_GRPC) :][:1] in (b"", b"+", b";")


def _refuse_body(scope: Scope) -> None:
    """What follows a handshake are frames: a body would be taken for some."""
    for name, value in scope["headers"]:
        if name == b"transfer-encoding" or name == b"content-length" and value != b"0":
            raise RequestError("a WebSocket handshake has no body")


def _as_shimmy(error: Exception, scope: Scope) -> ShimmyError:
    return error if isinstance(error, ShimmyError) else internal_error(error, scope["state"]["access"].id)


def _request_id(scope: Scope) -> str:
    """The client's own, if it could have been one of ours."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _SANE_ID.fullmatch(value):
            return str(value.decode())
    return f"req_{os.urandom(12).hex()}"
