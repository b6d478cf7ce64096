"""/ws/generate over fake workers, with a client that shows every frame."""

import json

import pytest
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    RejectConnection,
    RejectData,
    TextMessage,
)

from tests.program import inside
from tests.server.live import Inside, Live, run_inside, run_live, with_settings
from tests.server.websocket import Socket, socket

pytestmark = pytest.mark.program


def test_tokens_are_raw_frames_and_the_end_is_an_object() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, first):
            assert isinstance(first, AcceptConnection)
            await client.ask("!say one\ntwo")
            assert await client.until_end() == ["one\ntwo", '{"done":true}']
            await client.send(BytesMessage(b'{"model":"echo","messages":[{"role":"user","content":"one two"}]}'))
            *tokens, end = await client.until_end()
            assert "".join(tokens) == "one two" and end == '{"done":true}'

    run_live(test)


@pytest.mark.parametrize(("target", "protocols"), [("?frames=json", ()), ("", ("shimmy.json",))])
def test_tokens_as_objects(target: str, protocols: tuple[str, ...]) -> None:
    async def test(server: Live) -> None:
        async with socket(server, f"/ws/generate{target}", protocols) as (client, first):
            assert isinstance(first, AcceptConnection) and first.subprotocol == (protocols[0] if protocols else None)
            await client.ask("!say one")
            assert [json.loads(frame) for frame in await client.until_end()] == [{"token": "one"}, {"done": True}]

    run_live(test)


@inside("a setting without a flag")
@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("{", "invalid_request"),
        ("", "invalid_request"),
        ('{"model":"nope","prompt":"a"}', "model_not_found"),
        ('{"model":"echo","prompt":"a","max_tokens":0}', "invalid_request"),
        ('{"model":"echo","prompt":"!crash SIGABRT 0"}', "worker_lost"),
        ('{"model":"echo","prompt":"%s"}' % ("\u00e9" * 900), "request_too_large"),
    ],
)
def test_an_error_is_a_frame_and_the_next_request_is_answered(content: str, code: str) -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            await client.send(TextMessage(content))
            (*_, last) = await client.until_end()
            assert json.loads(last)["code"] == code
            await client.ask("!say one")
            assert (await client.until_end())[0] == "one"

    run_live(test, settings=with_settings(max_body_bytes=1000))


def test_strict_requests_are_refused_for_unknown_fields() -> None:
    async def test(server: Live) -> None:
        async with socket(server, "/ws/generate?strict=1") as (client, _):
            await client.ask("!say hi", foo=1)
            refused = json.loads(await client.text())
            assert refused["code"] == "invalid_request" and "foo" in refused["error"]
            await client.ask("!say hi")
            assert await client.text() == "hi"

    run_live(test)


def test_a_crash_in_the_middle_ends_with_an_error() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            await client.ask("!crash SIGABRT 1")
            first, last = await client.until_end()
            assert first == "w0" and json.loads(last)["code"] == "worker_lost"

    run_live(test)


def test_one_request_at_a_time() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            await client.ask("!stall 1")
            assert await client.text() == "w0"
            await client.ask("two")
            assert "one request at a time" in json.loads(await client.text())["error"]
            await server.say("!release")
            assert await client.text() == '{"done":true}'

    run_live(test)


def test_a_client_that_leaves_ends_its_request() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            await client.ask("!stall 1")
            await client.text()
        await server.until_active(0)
        async with socket(server) as (client, _):
            await client.ask("!stall 1")
            await client.text()
            await client.send(CloseConnection(1000))
            await server.until_active(0)

    run_live(test)


def test_a_client_that_reads_nothing_pauses_its_sequence_and_is_cut_while_others_go_on() -> None:
    async def test(server: Inside) -> None:
        async with socket(server, receive_buffer=4096) as (stalled, _):
            await stalled.ask("!flood 20000", max_tokens=20000)
            await server.until_logged("pause shimmy-")
            async with socket(server) as (other, _):
                await other.ask("!say one")
                assert await other.until_end() == ["one", '{"done":true}']
            await server.until_active(0)
            await server.until_logged("pause shimmy-.* abort shimmy-")
            assert '{"done":true}' not in await everything(stalled)
        await server.until_no_connections()

    run_inside(test, settings=with_settings(stall_seconds=2.0), keep_alive_seconds=0.1)


async def everything(client: Socket) -> str:
    """What has arrived, up to where the connection ends."""
    received = b""
    try:
        while data := await client.reader.read(65536):
            received += data
    except ConnectionError:
        pass
    return received.decode(errors="replace")


@inside("a setting without a flag")
def test_a_client_that_asks_nothing_is_closed() -> None:
    async def test(server: Live) -> None:
        async with socket(server) as (client, _):
            event = await client.next()
            assert isinstance(event, CloseConnection) and event.code == 1000

    run_live(test, settings=with_settings(body_seconds=0.1))


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        ("/ws/generate", {"origin": "http://evil.example"}, 403),
        ("/ws/generate", {}, 401),
        ("/ws/nope", {"x_api_key": "key"}, 403),
    ],
)
def test_the_guards_refuse_before_anything_is_accepted(target: str, headers: dict[str, str], status: int) -> None:
    async def test(server: Live) -> None:
        async with socket(server, target, (), None, **headers) as (client, first):
            assert isinstance(first, RejectConnection) and first.status_code == status
            if first.has_body:
                body = await client.next()
                assert isinstance(body, RejectData) and (
                    not body.data or set(json.loads(body.data)) == {"error", "code"}
                )

    run_live(test, settings=with_settings(api_keys=("key",)))


def test_a_key_lets_in() -> None:
    async def test(server: Live) -> None:
        async with socket(server, x_api_key="key") as (client, first):
            assert isinstance(first, AcceptConnection)
            await client.ask("!say one")
            assert (await client.until_end())[0] == "one"

    run_live(test, settings=with_settings(api_keys=("key",)))
