"""grpc.reflection, with gRPC's own package as the client, and the way grpcurl goes: one call, many questions."""

import asyncio
from collections.abc import AsyncIterator

import pytest

pytest.importorskip("grpc", reason="the client is grpcio")
pytest.importorskip("grpc_reflection", reason="the client is grpcio-reflection")

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.program import inside
from tests.protocols.grpc.official import connected, message
from tests.server.live import Inside, Live, run_inside, run_live, with_settings

pytestmark = pytest.mark.program

SERVICES = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "spindll.Spindll",
]


def test_the_official_client_finds_and_calls_a_method() -> None:
    """All that docs/grpc.md has of it."""

    def ask(port: int) -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            database = ProtoReflectionDescriptorDatabase(channel)
            assert sorted(database.get_services()) == SERVICES
            method = DescriptorPool(database).FindServiceByName("spindll.Spindll").FindMethodByName("Chat")
            assert method.input_type.fields_by_name["params"].message_type.full_name == "spindll.GenerateParams"
            assert method.server_streaming and not method.client_streaming

    async def test(server: Live) -> None:
        await asyncio.to_thread(ask, server.port)

    run_live(test)


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_many_questions_in_one_call(version: str) -> None:
    """Each is answered before the next is asked, and the body ends after the last answer."""
    package = f"grpc.reflection.{version}"

    async def test(server: Live) -> None:
        async with connected(server) as client:
            call = client("ServerReflectionInfo", f"{package}.ServerReflection")()

            async def ask(**fields: object) -> object:
                question = message(f"{package}.ServerReflectionRequest", host="here", **fields)
                await call.write(question)
                answer = await call.read()
                assert (answer.valid_host, answer.original_request) == ("here", question)
                return getattr(answer, answer.WhichOneof("message_response"))

            told = await ask(list_services="*")
            assert [service.name for service in told.service] == SERVICES  # type: ignore[attr-defined]
            by_name = await ask(file_by_filename="spindll.proto")
            for symbol in ("spindll.Spindll", "spindll.Spindll.Chat", "spindll.ChatRequest"):
                assert await ask(file_containing_symbol=symbol) == by_name
            for unknown in ({"file_by_filename": "no.proto"}, {"file_containing_symbol": "no.Such"}):
                assert (await ask(**unknown)).error_code == 5  # type: ignore[attr-defined]
            extension = message(f"{package}.ExtensionRequest", containing_type="spindll.Message", extension_number=7)
            assert (await ask(file_containing_extension=extension)).error_code == 5  # type: ignore[attr-defined]
            told = await ask(all_extension_numbers_of_type="spindll.Message")
            assert told.base_type_name == "spindll.Message"  # type: ignore[attr-defined]
            assert (await ask(all_extension_numbers_of_type="no.Such")).error_code == 5  # type: ignore[attr-defined]
            assert (await ask()).error_code == 3  # type: ignore[attr-defined]
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK

    run_live(test)


def test_it_needs_a_key() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            call = client("ServerReflectionInfo", SERVICES[1])(questions())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    async def questions() -> AsyncIterator[object]:
        yield message("grpc.reflection.v1.ServerReflectionRequest", list_services="")

    run_live(test, settings=with_settings(api_keys=("a-key",)))


@inside("it tells the server to leave")
def test_a_silent_client_does_not_hold_up_the_end() -> None:
    async def test(server: Inside) -> None:
        async with connected(server) as client:
            call = client("ServerReflectionInfo", SERVICES[1])()
            await call.write(message("grpc.reflection.v1.ServerReflectionRequest", list_services=""))
            await call.read()
            server.readiness.draining = True
            assert await call.code() is grpc.StatusCode.UNAVAILABLE

    run_inside(test)
