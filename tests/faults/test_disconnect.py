"""Clients that leave: what runs for them stops in the worker, streaming or not, and nobody else notices."""

import asyncio
import socket
import struct
from pathlib import Path

import pytest

from tests.fakes.pool import scripted_model
from tests.program import inside
from tests.server.live import Client, Live, chat_body, run_live

pytestmark = [pytest.mark.slow, pytest.mark.program]

CHAT = "/v1/chat/completions"
RESET = struct.pack("ii", 1, 0)


async def start(client: Client, prompt: str, **fields: object) -> None:
    await client.request("POST", CHAT, chat_body(prompt, **fields))


def leave(client: Client, politely: bool) -> None:
    """With a FIN, or with a reset."""
    if not politely:
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.writer.close()


@pytest.mark.parametrize("politely", [True, False])
@pytest.mark.parametrize("num_words", [0, 3], ids=["prefill", "decode"])
def test_while_streaming(num_words: int, politely: bool) -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await start(client, f"!stall {num_words}", stream=True)
            assert (await client.head()).status == 200
            async for data in client.data():
                content = data["choices"][0]["delta"].get("content", "")
                if (num_words == 0) == (content == ""):
                    break
            leave(client, politely)
        await server.until_logged("abort chatcmpl-")
        await server.until_active(0)
        await server.until_no_connections()

    run_live(test, keep_alive_seconds=0.1)


@pytest.mark.parametrize("politely", [True, False])
def test_while_waiting_for_a_whole_answer(politely: bool) -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await start(client, "!stall 3")
            await server.until_active(1)
            await server.say("!log")  # goes to the worker behind the request, so that one is there
            leave(client, politely)
        await server.until_logged("abort chatcmpl-")
        await server.until_active(0)
        await server.until_no_connections()

    run_live(test, keep_alive_seconds=0.1)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("politely", [True, False])
def test_with_the_next_request_sent_early(stream: bool, politely: bool) -> None:
    """While that one waits, Hypercorn does not read, and so does not see the end; nor does it forget the connection."""

    async def test(server: Live) -> None:
        async with server.connect() as client:
            await start(client, "!stall 3", stream=stream)
            await server.until_active(1)
            await client.request("GET", "/health")
            leave(client, politely)
        await server.until_active(0)
        await server.until_no_connections()

    run_live(test, keep_alive_seconds=0.1)


@inside("requests before there is a worker")
@pytest.mark.parametrize("stream", [True, False])
def test_while_the_model_loads(stream: bool, tmp_path: Path) -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await start(client, "hello", stream=stream)
            await server.until_active(1)
        await server.until_active(0)
        (tmp_path / "echo.gguf.go").touch()
        assert (await server.chat("hello")).status == 200

    run_live(test, scripted_model("echo", tmp_path, "hold"))


def test_of_several_prompts_all_are_stopped() -> None:
    async def test(server: Live) -> None:
        body = {"model": "echo", "prompt": ["!stall 1", "!stall 2", "!stall 3"], "stream": True, "max_tokens": 99}
        async with server.connect() as client:
            await client.request("POST", "/v1/completions", body)
            await client.head()
            await anext(client.data())
        await server.until_logged(r"(abort cmpl-\S+ ?){3}")
        await server.until_active(0)

    run_live(test, keep_alive_seconds=0.1)


def test_the_loop_is_not_wedged_by_clients_that_leave_a_busy_stream() -> None:
    """Hypercorn's send neither raises nor suspends for them; without a look at `receive` the server would be gone."""

    async def test(server: Live) -> None:
        for politely in (True, False):
            async with server.connect() as client:
                await start(client, "!flood 100000", stream=True)
                await client.head()
                leave(client, politely)
            assert (await server.ask("GET", "/health")).status == 200
        await server.until_logged("abort .*abort ")
        await server.until_active(0)

    run_live(test, keep_alive_seconds=0.1)


def test_others_go_on() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as staying:
            await start(staying, "!stall 2", stream=True)
            await staying.head()
            for _ in range(10):
                async with server.connect() as client:
                    await start(client, "!stall 2", stream=True)
                    await client.head()
            await server.until_active(1)
            await server.say("!release")
            received = [data async for data in staying.data()]
            text = "".join(data["choices"][0]["delta"].get("content", "") for data in received[:-1])
            assert (text, received[-1]) == ("w0 w1", "[DONE]")

    run_live(test, keep_alive_seconds=0.1)


def test_a_client_that_only_stops_sending_is_gone_too() -> None:
    """Hypercorn takes a half-closed connection for a closed one."""

    async def test(server: Live) -> None:
        async with server.connect() as client:
            await start(client, "!stall 1", stream=True)
            await client.head()
            client.writer.write_eof()
            await server.until_active(0)

    run_live(test, keep_alive_seconds=0.1)


def test_many_at_once() -> None:
    async def test(server: Live) -> None:
        async def come_and_go() -> None:
            async with server.connect() as client:
                await start(client, "!stall 1", stream=True)
                await client.head()

        await asyncio.gather(*(come_and_go() for _ in range(50)))
        await server.until_active(0)
        assert (await server.chat("hello")).status == 200

    run_live(test, keep_alive_seconds=0.1)
