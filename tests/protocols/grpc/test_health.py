"""grpc.health.v1, with gRPC's own package as the client."""

import pytest

pytest.importorskip("grpc", reason="the client is grpcio")
pytest.importorskip("grpc_health", reason="the client is grpcio-health-checking")

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse, HealthListRequest
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.program import inside
from tests.protocols.grpc.official import connected
from tests.server.live import Inside, Live, run_inside, run_live, with_settings

pytestmark = pytest.mark.program

SERVING, NOT_SERVING = HealthCheckResponse.SERVING, HealthCheckResponse.NOT_SERVING


def test_what_serves() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            health = HealthStub(client.channel)
            for name in ("", "spindll.Spindll"):
                assert (await health.Check(HealthCheckRequest(service=name))).status == SERVING
            listed = (await health.List(HealthListRequest())).statuses
            assert {name: each.status for name, each in listed.items()} == {"": SERVING, "spindll.Spindll": SERVING}
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.Check(HealthCheckRequest(service="nobody"))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            watching = health.Watch(HealthCheckRequest(service="nobody"))
            assert (await watching.read()).status == HealthCheckResponse.SERVICE_UNKNOWN

    run_live(test)


def test_no_key_is_needed_but_for_the_list() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            health = HealthStub(client.channel)
            assert (await health.Check(HealthCheckRequest())).status == SERVING
            assert (await health.Watch(HealthCheckRequest()).read()).status == SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await health.List(HealthListRequest())
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    run_live(test, settings=with_settings(api_keys=("a-key",)))


@inside("it changes what the server is ready for")
def test_changes_are_told_as_they_come() -> None:
    async def test(server: Inside) -> None:
        async with connected(server) as client:
            health = HealthStub(client.channel)
            server.readiness._preloading = True
            watching = health.Watch(HealthCheckRequest(service="spindll.Spindll"))
            assert (await watching.read()).status == NOT_SERVING
            assert (await health.Check(HealthCheckRequest())).status == NOT_SERVING
            server.readiness._preloading = False
            assert (await watching.read()).status == SERVING
            server.readiness.draining = True
            assert (await watching.read()).status == NOT_SERVING
            assert await watching.code() is grpc.StatusCode.UNAVAILABLE

    run_inside(test)
