"""Clients that stop reading: their own sequence pauses, and after a while they are cut; nobody else notices."""

import pytest

from tests.program import inside
from tests.server.http2 import http2
from tests.server.live import Client, Live, chat_body, run_live, with_settings

pytestmark = [pytest.mark.slow, pytest.mark.program]

CHAT = "/v1/chat/completions"
NUM_WORDS = 1000  # of 1 KiB each: more than all buffers on the way hold, unless the kernel may hold what it likes
TINY = 4096
# Within it a worker has to be paused, and all that there is a window for has to come.
STALL_SECONDS = 2.0


async def flood(client: Client, stream: bool = True) -> None:
    await client.request("POST", CHAT, chat_body(f"!flood {NUM_WORDS}", stream=stream))


def test_only_its_own_sequence_pauses_and_nothing_is_lost() -> None:
    async def test(server: Live) -> None:
        async with server.connect(receive_buffer=TINY) as slow:
            await flood(slow)
            await slow.head()
            await server.until_logged("pause chatcmpl-")
            async with server.connect() as quick:
                await flood(quick)
                assert (await quick.answer()).body.endswith(b"data: [DONE]\n\n")
            await server.until_active(1)
            events = [data async for data in slow.data()]
            text = "".join(data["choices"][0]["delta"].get("content", "") for data in events[:-1])
            assert (len(text), events[-1]) == (NUM_WORDS * 1024, "[DONE]")
        await server.until_logged("pause chatcmpl-.* resume chatcmpl-")

    run_live(test, keep_alive_seconds=0.1)


@inside("stall_seconds")
def test_it_is_cut_when_it_takes_nothing_for_long() -> None:
    async def test(server: Live) -> None:
        async with server.connect(receive_buffer=TINY) as slow:
            await flood(slow)
            await slow.head()
            await server.until_active(0)
            await server.until_logged("pause chatcmpl-.* abort chatcmpl-")
            await server.until_no_connections()
            assert not (await rest_of(slow)).endswith(b"[DONE]\n\n\r\n0\r\n\r\n")

    run_live(test, settings=with_settings(stall_seconds=STALL_SECONDS), keep_alive_seconds=0.1)


@inside("stall_seconds")
def test_it_is_cut_with_its_next_request_sent_early() -> None:
    async def test(server: Live) -> None:
        async with server.connect(receive_buffer=TINY) as slow:
            await flood(slow)
            await slow.head()
            await slow.request("GET", "/health")
            await server.until_active(0)
            await server.until_no_connections()

    run_live(test, settings=with_settings(stall_seconds=0.3), keep_alive_seconds=0.1)


@inside("stall_seconds")
@pytest.mark.parametrize("headers", [{}, {"connection": "close"}], ids=["keep-alive", "close"])
def test_what_is_left_of_an_answer_does_not_stay_for_ever(headers: dict[str, str]) -> None:
    async def test(server: Live) -> None:
        async with server.connect(receive_buffer=TINY) as slow:
            # Too much for the system, and too little for the server to wait before it takes the answer for sent.
            await slow.request("GET", "/openapi.json", **headers)
            await slow.head()
            await server.until_no_connections()

    run_live(test, settings=with_settings(stall_seconds=0.3), keep_alive_seconds=0.1)


@inside("stall_seconds")
def test_a_whole_answer_that_is_not_read_does_not_stay_for_ever() -> None:
    async def test(server: Live) -> None:
        async with server.connect(receive_buffer=TINY) as slow:
            await flood(slow, stream=False)
            await slow.head()
            await server.until_idle()
            await server.until_no_connections()

    run_live(test, settings=with_settings(stall_seconds=0.3), keep_alive_seconds=0.1)


async def rest_of(client: Client) -> bytes:
    received = b""
    try:
        while data := await client.reader.read(1 << 16):
            received += data
    except ConnectionError:
        pass
    return received


@inside("stall_seconds")
def test_on_http2_the_connection_and_its_other_streams_stay() -> None:
    async def test(server: Live) -> None:
        async with http2(server, open_windows=False) as client:
            slow = await client.request("POST", CHAT, chat_body(f"!flood {NUM_WORDS}", stream=True))
            while slow not in client.reset:
                await client.turn()
            assert len(client.data[slow]) == 65535  # the window it began with
            other = await client.request("POST", CHAT, chat_body("still here"))
            while other not in client.ended:
                await client.turn()
            assert b"still here" in client.data[other]
        await server.until_logged("pause chatcmpl-.* abort chatcmpl-")
        await server.until_no_connections()

    run_live(test, settings=with_settings(stall_seconds=STALL_SECONDS))


def test_on_http2_a_client_that_leaves_without_having_read_is_noticed() -> None:
    """Hypercorn does not tell a send that waits for the window."""

    async def test(server: Live) -> None:
        async with http2(server, open_windows=False) as client:
            slow = await client.request("POST", CHAT, chat_body(f"!flood {NUM_WORDS}", stream=True))
            while len(client.data[slow]) < 65535:
                await client.turn()
            await server.until_logged("pause chatcmpl-")
        await server.until_active(0)
        await server.until_no_connections()

    run_live(test, keep_alive_seconds=0.1)


def test_on_http2_a_reset_stops_one_stream() -> None:
    async def test(server: Live) -> None:
        async with http2(server) as client:
            left = await client.request("POST", CHAT, chat_body("!stall 1", stream=True))
            kept = await client.request("POST", CHAT, chat_body("!stall 2", stream=True))
            while not (client.data[left] and client.data[kept]):
                await client.turn()
            client.connection.reset_stream(left)
            await client.flush()
            await server.until_active(1)
            await server.say("!release")
            while kept not in client.ended:
                await client.turn()
            assert client.data[kept].endswith(b"data: [DONE]\n\n")

    run_live(test, keep_alive_seconds=0.1)
