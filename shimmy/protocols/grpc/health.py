"""grpc.health.v1: whether new work should be sent here (github.com/grpc/grpc/blob/master/doc/health-checking.md)."""

import asyncio
from collections.abc import Callable
from typing import Annotated

import msgspec
from starlette.types import Scope

from shimmy.core.errors import Draining, NotFound
from shimmy.protocols.grpc.methods import Method, Reply, unary
from shimmy.protocols.grpc.schema import ENUM, STRING, Field

SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3
# "" is the server as a whole. Health and reflection answer as long as the server does.
NAMES = ("", "spindll.Spindll")

_LOOK_SECONDS = 0.5


class HealthCheckRequest(msgspec.Struct, frozen=True):
    service: Annotated[str, Field(1, STRING)] = ""


class HealthCheckResponse(msgspec.Struct, frozen=True):
    status: Annotated[int, Field(1, ENUM)] = 0


class HealthListRequest(msgspec.Struct, frozen=True):
    pass


class HealthListResponse(msgspec.Struct, frozen=True):
    statuses: Annotated[dict[str, HealthCheckResponse], Field(1, HealthCheckResponse)] = {}


class Health:
    def __init__(self, state: Callable[[], str]) -> None:
        self._state = state

    async def check(self, request: HealthCheckRequest, scope: Scope) -> HealthCheckResponse:
        if request.service not in NAMES:
            raise NotFound(f"there is no service {request.service[:200]!r}", param="service")
        return self._now(request.service)

    async def list(self, request: HealthListRequest, scope: Scope) -> HealthListResponse:
        return HealthListResponse({name: self._now(name) for name in NAMES})

    async def watch(self, request: HealthCheckRequest, scope: Scope) -> Reply:
        """Every change, until the server leaves; a service that is not known now may be later, so that is no error."""
        told = None
        while True:
            now = self._now(request.service)
            if now != told:
                told = now
                yield now
            if self._state() == "draining":
                raise Draining("the server is shutting down")
            await asyncio.sleep(_LOOK_SECONDS)

    def _now(self, service: str) -> HealthCheckResponse:
        if service not in NAMES:
            return HealthCheckResponse(SERVICE_UNKNOWN)
        return HealthCheckResponse(SERVING if self._state() == "ready" else NOT_SERVING)


def methods(state: Callable[[], str]) -> dict[str, Method]:
    health = Health(state)
    return {
        "/grpc.health.v1.Health/Check": unary(HealthCheckRequest, health.check, "public"),
        "/grpc.health.v1.Health/List": unary(HealthListRequest, health.list),
        "/grpc.health.v1.Health/Watch": Method(HealthCheckRequest, health.watch, needed_scope="public"),
    }
