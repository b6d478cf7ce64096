"""Calls as grpcio makes them, over fake workers; what no client library would send comes from a raw HTTP/2 client."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("grpc", reason="the client is grpcio")
pytest.importorskip("google.protobuf", reason="messages are Google's")

import grpc

from shimmy.core.keys import INFER, ApiKey
from shimmy.pool.room import Usage
from shimmy.protocols.grpc.framing import framed
from shimmy.server.residence import Residence
from tests.fakes.pool import fake_model
from tests.program import inside
from tests.protocols.grpc.official import chat, connected, message
from tests.server.client import PATIENCE_SECONDS
from tests.server.http2 import Http2, http2
from tests.server.live import Inside, Live, run_inside, run_live, with_settings

pytestmark = pytest.mark.program

CHAT = "/spindll.Spindll/Chat"
CALL = (("te", "trailers"), ("content-type", "application/grpc"))
KEYS = with_settings(api_keys=("right-key",))


async def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a call fails; of a stream, after what came before."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "read"):
            while await call.read() is not grpc.aio.EOF:
                pass
        else:
            await call
    return caught.value.code(), caught.value.details() or ""


async def trailing(call: Any) -> dict[str, str]:
    return dict(await call.trailing_metadata())


# What comes back


def test_a_chat() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            *pieces, last = await client.chat("one two three four", max_tokens=3)
            assert "".join(piece.token for piece in pieces) == "one two three"
            assert not any(piece.done or piece.HasField("usage") for piece in pieces)
            assert (last.token, last.done, last.finish_reason) == ("", True, "length")
            assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (4, 3)
            assert last.usage.tokens_per_second > 0
            assert (await client.chat("one"))[-1].finish_reason == "stop"
            assert (await client.chat("!cached 1"))[-1].usage.cached_tokens == 1

    run_live(test)


def test_text_without_a_template() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            request = message("GenerateRequest", model="echo", prompt="once upon a time")
            *pieces, last = [each async for each in client("Generate")(request)]
            assert "".join(piece.token for piece in pieces) == "once upon a time"
            assert (last.done, last.finish_reason, last.usage.prompt_tokens) == (True, "stop", 4)

    run_live(test)


def test_what_a_request_asks_for_reaches_the_worker() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            given: dict[str, Any] = {
                "temperature": 0.5,
                "top_p": 0.25,
                "top_k": 7,
                "max_tokens": 9,
                "stop": ["zz"],
                "seed": 3,
            }
            told = "".join(piece.token for piece in await client.chat("!request", **given))
            for expected in ('"temperature":0.5', '"top_p":0.25', '"top_k":7', '"seed":3', '"max_tokens":9', '["zz"]'):
                assert expected in told
            told = "".join(piece.token for piece in await client.chat("!request"))
            assert '"seed":42' in told and '"max_tokens":512' in told and "temperature" not in told
            greedy = "".join(piece.token for piece in await client.chat("!request", temperature=0, seed=2**64 - 1))
            assert '"temperature":0.0' in greedy and f'"seed":{2**63 - 1}' in greedy

    run_live(test)


def test_roles_and_keys_reach_the_worker() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            turns = [message("Message", role="developer", content="be brief")]
            turns.append(message("Message", role="user", content="!request"))
            request = message("ChatRequest", model="echo", messages=turns, encryption_key=b"k" * 32)
            told = "".join([piece.token async for piece in client("Chat")(request)])
            assert '"role":"system","content":"be brief"' in told
            assert '"encryption_key"' in told

    run_live(test)


def test_prefill_tells_the_tokens_of_the_prompt() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            turn = message("Message", role="user", content="one two three")
            answer = await client("Prefill")(message("PrefillRequest", model="echo", messages=[turn]))
            assert answer.tokens_cached == 3

    run_live(test)


@inside("a model without a file, and one that no worker is asked to load")
def test_models_are_listed_loaded_and_shown() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            listed = await client("List")(message("ListRequest"))
            assert listed.prefer_format == "gguf"
            (model,) = listed.models
            assert (model.name, model.file, model.size_bytes) == ("echo", "/fake/echo.gguf", 1000)
            assert (model.format, model.display_name) == ("gguf", "echo")
            assert not (await client("Status")(message("StatusRequest"))).models
            for already in (False, True):
                loaded = await client("Load")(message("LoadRequest", model="echo:latest", gpu_layers=-1))
                assert (loaded.success, loaded.message, loaded.already_loaded) == (True, "echo is loaded", already)
            (shown,) = (await client("Status")(message("StatusRequest"))).models
            assert (shown.name, shown.context_length) == ("echo", 4096)
            # What the process takes, and not only what its model does.
            assert shown.memory_used > 1 << 20

    run_live(test, "echo", fake_model("broken", invalid="it is half a file"))


@inside("memory that is made up")
def test_status_has_what_models_take_of_main_memory_and_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Residence, "usage", lambda self: Usage(1000, 300))
    monkeypatch.setattr(Residence, "gpu_usage", lambda self: {"G0": Usage(500, 450), "G1": Usage(500, 100)})
    monkeypatch.setattr(Residence, "taken_bytes", lambda self, model_id: 300)
    monkeypatch.setattr(Residence, "gpu_bytes", lambda self, model_id: {"G0": 1 << 40, "G1": 100})

    async def test(server: Live) -> None:
        async with connected(server) as client:
            await client("Load")(message("LoadRequest", model="echo"))
            told = await client("Status")(message("StatusRequest"))
            memory = told.memory
            assert (memory.total_ram, memory.used_ram, memory.available_ram) == (1000, 300, 700)
            assert (memory.total_vram, memory.used_vram, memory.available_vram) == (1000, 550, 450)
            assert told.models[0].memory_used == 300 + (1 << 40) + 100
            # Nobody knows what there is, and more is taken than there was.
            monkeypatch.setattr(Residence, "usage", lambda self: Usage(None, 300))
            monkeypatch.setattr(Residence, "gpu_usage", lambda self: {"G0": Usage(-1, 450)})
            memory = (await client("Status")(message("StatusRequest"))).memory
            assert (memory.total_ram, memory.available_ram, memory.total_vram, memory.available_vram) == (0, 0, 0, 0)

    run_live(test, "echo")


@inside("models without files")
def test_many_models_are_one_list() -> None:
    names = [f"model-{number:02}" for number in range(45)]

    async def test(server: Live) -> None:
        async with connected(server) as client:
            listed = await client("List")(message("ListRequest"))
            assert [model.name for model in listed.models] == names and listed.prefer_format == "gguf"

    run_live(test, *names)


def test_any_number_of_calls_on_one_connection() -> None:
    """Hypercorn's own limit cuts the connection with all that runs on it."""

    async def test(server: Live) -> None:
        async with connected(server) as client, asyncio.TaskGroup() as group:
            limit = asyncio.Semaphore(20)

            async def check() -> None:
                async with limit:
                    await client("Check", "grpc.health.v1.Health")(message("grpc.health.v1.HealthCheckRequest"))

            for _ in range(1100):
                group.create_task(check())

    run_live(test)


def test_a_large_message() -> None:
    async def test(server: Live) -> None:
        async with connected(server, max_receive_message_length=-1) as client:
            text = "x" * (4 << 20)
            request = message("GenerateRequest", model="echo", prompt=text)
            assert "".join([piece.token async for piece in client("Generate")(request)]) == text

    run_live(test)


def test_gzip_is_read() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            request = message("GenerateRequest", model="echo", prompt="squeeze" + " squeeze" * 99)
            pieces = [each async for each in client("Generate")(request, compression=grpc.Compression.Gzip)]
            assert pieces[-1].usage.prompt_tokens == 100

    run_live(test)


# What is refused


@inside("max_body_bytes")
def test_a_message_that_is_too_large() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            for size in (2000, 1 << 20):
                code, details = await refused(client("Chat")(chat("x" * size)))
                assert (code, "over the limit of 1000 bytes" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
            assert (await client.chat("small"))[-1].done

    run_live(test, settings=with_settings(max_body_bytes=1000))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"temperature": -1.0}, "params.temperature: "),
        ({"temperature": float("nan")}, "params.temperature: "),
        ({"top_p": 1.5}, "params.top_p: "),
        ({"max_tokens": 0}, "params.max_tokens: "),
        ({"top_k": -2}, "params.top_k: "),
        ({"stop": ["x"] * 17}, "params.stop: "),
    ],
)
def test_a_value_out_of_range(fields: dict[str, Any], told: str) -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            call = client("Chat")(chat("hi", **fields))
            code, details = await refused(call)
            assert (code, details.startswith(told)) == (grpc.StatusCode.INVALID_ARGUMENT, True)
            assert (await trailing(call))["error-param"] == told.rstrip(": ")

    run_live(test)


def test_requests_that_make_no_sense() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            turn = message("Message", role="robot", content="hi")
            for request, told in (
                (message("ChatRequest", model="echo"), "messages: "),
                (message("ChatRequest", model="echo", messages=[turn]), "messages[0].role: "),
                (message("ChatRequest", model="echo", encryption_key=b"short"), "encryption_key: "),
            ):
                if "encryption_key" in told:
                    request.messages.append(message("Message", role="user"))
                code, details = await refused(client("Chat")(request))
                assert (code, details.startswith(told)) == (grpc.StatusCode.INVALID_ARGUMENT, True)

    run_live(test)


def test_errors_of_the_engine() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            call = client("Chat")(chat("hi", model="nobody"))
            code, details = await refused(call)
            assert code is grpc.StatusCode.NOT_FOUND and "there is echo" in details
            assert (await trailing(call))["error-code"] == "model_not_found"
            code, details = await refused(client("Chat")(chat("w " * 5000)))
            assert (code, "4096" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
            code, details = await refused(client("Chat")(chat("!break internal_error 50 % ünfug")))
            assert (code, details) == (grpc.StatusCode.INTERNAL, "50 % ünfug")

    run_live(test)


def test_a_model_that_nobody_uses_is_unloaded() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            await client("Load")(message("LoadRequest", model="echo"))
            busy = client("Chat")(chat("!stall 1"))
            await busy.read()
            code, details = await refused(client("Unload")(message("UnloadRequest", model="echo")))
            assert (code, "in use" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
            busy.cancel()
            while not await unloaded(client):
                await asyncio.sleep(0.05)
            assert not (await client("Status")(message("StatusRequest"))).models
            code, _ = await refused(client("Unload")(message("UnloadRequest", model="nobody")))
            assert code is grpc.StatusCode.NOT_FOUND

    run_live(test)


async def unloaded(client: Any) -> bool:
    """Whether the model could be unloaded: a call that was cancelled holds it for a moment."""
    try:
        return bool((await client("Unload")(message("UnloadRequest", model="echo"))).success)
    except grpc.aio.AioRpcError:
        return False


def test_only_a_key_with_the_scope_may_unload() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            call = client("Unload")(message("UnloadRequest", model="echo"), metadata=(("x-api-key", "user"),))
            assert (await refused(call))[0] is grpc.StatusCode.PERMISSION_DENIED

    run_live(test, settings=with_settings(api_keys=(ApiKey.of("user", scopes=INFER),)))


def test_what_this_server_cannot_do_is_said() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            for method in ("Pull", "Delete"):
                code, details = await refused(client(method)(message(f"{method}Request")))
                assert (code, "--allow-pull" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)
            for fields in ({"gpu_layers": 5}, {"priority": 3}, {"idle_reload_secs": 1}):
                (name,) = fields
                code, details = await refused(client("Load")(message("LoadRequest", model="echo", **fields)))
                assert (code, details.startswith(f"{name}: ")) == (grpc.StatusCode.INVALID_ARGUMENT, True)
            for path in ("/spindll.Spindll/Nothing", "/nobody.Service/Chat", "/v1/models"):
                code, details = await refused(client.channel.unary_unary(path)(b""))
                assert (code, details) == (grpc.StatusCode.UNIMPLEMENTED, f"there is no method {path}")

    run_live(test)


def test_a_load_may_have_a_priority() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            for priority in (0, 1, 2):
                assert (await client("Load")(message("LoadRequest", model="echo", priority=priority))).success

    run_live(test)


def test_a_priority_is_for_administrators_to_say() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            load, user = client("Load"), [("authorization", "Bearer user")]
            code, details = await refused(load(message("LoadRequest", model="echo", priority=1), metadata=user))
            assert (code, "admin" in details) == (grpc.StatusCode.PERMISSION_DENIED, True)
            assert (await load(message("LoadRequest", model="echo"), metadata=user)).success
            boss = [("authorization", "Bearer boss")]
            assert (await load(message("LoadRequest", model="echo", priority=1), metadata=boss)).success

    run_live(test, settings=with_settings(api_keys=(ApiKey.of("boss"), ApiKey.of("user", scopes=INFER))))


def test_a_model_leaves_when_metadata_say_so() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            assert [each async for each in client("Chat")(chat("hi"), metadata=(("x-shimmy-keep-alive", "0"),))]
            while len((await client("Status")(message("StatusRequest"))).models):
                await asyncio.sleep(0.01)

    run_live(test)


def test_keys() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            for metadata in ((), (("authorization", "Bearer wrong-key"),), (("x-api-key", "wrong-key"),)):
                code, details = await refused(client("Chat")(chat("hi"), metadata=metadata))
                assert (code, "API key" in details) == (grpc.StatusCode.UNAUTHENTICATED, True)
            assert await client.chat("hi", metadata=(("authorization", "Bearer right-key"),))
            assert await client.chat("hi", metadata=(("x-api-key", "right-key"),))
            health = client("Check", "grpc.health.v1.Health")
            assert (await health(message("grpc.health.v1.HealthCheckRequest"))).status == 1

    run_live(test, settings=KEYS)


# Ends


def test_cancelling_stops_the_sequence() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            call = client("Chat")(chat("!stall 2"))
            assert (await call.read()).token.startswith("w0")
            call.cancel()
            await server.until_logged("abort grpc-")
            await server.until_active(0)

    run_live(test)


def test_a_client_that_goes_away_stops_its_sequences() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            calls = [client("Chat")(chat("!stall 1")) for _ in range(3)]
            for call in calls:
                await call.read()
            await server.until_active(3)
        await server.until_logged("abort grpc-.*abort grpc-.*abort grpc-")
        await server.until_active(0)

    run_live(test)


def test_the_clients_deadline() -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            assert await client.chat("loaded")
            for seconds in PATIENCE_SECONDS:
                code, _ = await refused(client("Chat")(chat("!stall 2"), timeout=seconds))
                assert code is grpc.StatusCode.DEADLINE_EXCEEDED
                await server.until_active(0)
                # It may have been over before the worker had it.
                if "abort grpc-" in (log := await server.say("!log")):
                    break
            assert "abort grpc-" in log

    run_live(test)


async def finished(client: Http2, stream: int) -> dict[str, str]:
    while stream not in client.ended:
        await client.turn()
    return client.fields[stream]


def test_the_server_keeps_the_deadline_too() -> None:
    async def test(server: Live) -> None:
        async with http2(server) as client:
            assert await server.say("loaded") == "loaded"
            body = framed(chat("!stall 2").SerializeToString())
            for seconds in PATIENCE_SECONDS:
                timeout = ("grpc-timeout", f"{int(seconds * 1000)}m")
                stream = await client.request("POST", CHAT, body, *CALL, timeout)
                fields = await finished(client, stream)
                assert (fields[":status"], fields["grpc-status"]) == ("200", "4")
                if client.data[stream]:
                    break
            assert b"w0" in client.data[stream]
            await server.until_logged("abort grpc-")
            stream = await client.request("POST", CHAT, body, *CALL, ("grpc-timeout", "0n"))
            assert (await finished(client, stream))["grpc-status"] == "4"
            stream = await client.request("POST", CHAT, body, *CALL, ("grpc-timeout", "soon"))
            assert (await finished(client, stream))["grpc-status"] == "3"
            await server.until_active(0)

    run_live(test)


def test_what_no_library_would_send() -> None:
    async def test(server: Live) -> None:
        async with http2(server) as client:

            async def answer(body: bytes, *headers: tuple[str, str], path: str = CHAT) -> dict[str, str]:
                return await finished(client, await client.request("POST", path, body, *headers))

            whole = framed(chat("hi").SerializeToString())
            assert (await answer(whole, *CALL))["grpc-status"] == "0"
            bad = framed(b"\x12\x03\x12\x01\xff")
            told = await answer(bad, *CALL)
            assert (told["grpc-status"], told["error-param"]) == ("3", "messages[0].content")
            assert (await answer(whole[:-1], *CALL))["grpc-status"] == "3"
            assert (await answer(b"", *CALL))["grpc-status"] == "12"
            assert (await answer(whole * 2, *CALL))["grpc-status"] == "12"
            told = await answer(whole, *CALL, ("grpc-encoding", "snappy"))
            assert (told["grpc-status"], told["grpc-accept-encoding"]) == ("12", "identity,gzip")
            json = (CALL[0], ("content-type", "application/grpc+json"))
            assert (await answer(whole, *json))["grpc-status"] == "12"
            proto = (CALL[0], ("content-type", "application/grpc+proto"))
            assert (await answer(whole, *proto))["grpc-status"] == "0"
            # Without trailers there is nowhere to put a status.
            told = await answer(whole, CALL[1])
            assert (told[":status"], "grpc-status" in told) == ("400", False)
            assert (await answer(whole, ("content-type", "application/grpc-web")))[":status"] == "404"
        refused = await server.ask("POST", CHAT, whole, content_type="application/grpc")
        assert (refused.status, "HTTP/2" in refused.error["message"]) == (400, True)

    run_live(test)


@pytest.mark.parametrize("order", ["!crash SIGSEGV 2", "!exit 3 2"])
def test_a_worker_that_dies_ends_the_call(order: str) -> None:
    async def test(server: Live) -> None:
        async with connected(server) as client:
            call = client("Chat")(chat(order))
            assert (await call.read()).token.startswith("w0")
            code, details = await refused(call)
            assert (code, "worker process ended" in details) == (grpc.StatusCode.UNAVAILABLE, True)
            assert (await trailing(call))["error-code"] == "worker_lost"

    run_live(test)


@inside("it tells the server to leave, and looks at it meanwhile")
def test_a_server_that_leaves_ends_its_calls() -> None:
    async def test(server: Inside) -> None:
        async with connected(server) as client:
            running = client("Chat")(chat("!stall 1"))
            await running.read()
            watching = client("Watch", "grpc.health.v1.Health")(message("grpc.health.v1.HealthCheckRequest"))
            assert (await watching.read()).status == 1
            server.readiness.draining = True
            assert not await server.inference.drain(0)
            code, details = await refused(client("Chat")(chat("hi")))
            assert (code, details) == (grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
            await server.inference.close()
            assert (await refused(running))[0] is grpc.StatusCode.UNAVAILABLE
            assert (await watching.read()).status == 2
            assert (await refused(watching))[0] is grpc.StatusCode.UNAVAILABLE

    run_inside(test)


# Clients that read slowly


def tokens_in(data: bytes) -> Iterator[str]:
    """Of the answers to a chat, each behind a byte and its length."""
    while data:
        end = 5 + int.from_bytes(data[1:5])
        answer = message("ChatResponse")
        answer.ParseFromString(data[5:end])
        yield answer.token
        data = data[end:]


def test_a_slow_reader_pauses_its_own_sequence() -> None:
    async def test(server: Live) -> None:
        async with http2(server, open_windows=False) as slow, connected(server) as client:
            body = framed(chat("!flood 1000", max_tokens=1000).SerializeToString())
            stream = await slow.request("POST", CHAT, body, *CALL)
            await server.until_logged("pause grpc-")
            assert (await client.chat("still here"))[-1].done
            while len(slow.data[stream]) < 65535:
                await slow.turn()
            slow.open_windows = True
            slow.connection.increment_flow_control_window(65535, stream)
            await slow.flush()
            assert (await finished(slow, stream))["grpc-status"] == "0"
            assert sum(token.count("x") for token in tokens_in(bytes(slow.data[stream]))) == 1000 * 1023
        await server.until_logged("pause grpc-.* resume grpc-")

    run_live(test)


@inside("stall_seconds")
def test_one_that_takes_nothing_is_cut() -> None:
    async def test(server: Live) -> None:
        async with http2(server, open_windows=False) as slow:
            body = framed(chat("!flood 1000", max_tokens=1000).SerializeToString())
            stream = await slow.request("POST", CHAT, body, *CALL)
            while stream not in slow.reset:
                await slow.turn()
            await server.until_logged("abort grpc-")
            other = await slow.request("POST", CHAT, framed(chat("here").SerializeToString()), *CALL)
            assert (await finished(slow, other))["grpc-status"] == "0"

    # A moment in which the whole process stands still must not pass for a client that takes nothing.
    run_live(test, settings=with_settings(stall_seconds=2.0))


def test_the_log_names_the_error(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: Inside) -> None:
        async with connected(server) as client:
            await refused(client("Chat")(chat("hi", model="nobody")))
            await server.until_idle()

    with caplog.at_level("INFO", "shimmy.server.access"):
        run_inside(test)
    fields = [getattr(record, "fields", {}) for record in caplog.records]
    assert ("model_not_found", 200, CHAT) in [(each["error"], each["status"], each["path"]) for each in fields]
