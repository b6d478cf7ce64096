"""Streams that are opened and reset at once (CVE-2023-44487): the work of each is stopped, the server goes on."""

import pytest
from hyperframe.frame import DataFrame

from tests.server.http2 import http2
from tests.server.live import Live, chat_body, run_live

pytestmark = [pytest.mark.slow, pytest.mark.program]

NUM_STREAMS = 300


def test_rapid_reset() -> None:
    async def test(server: Live) -> None:
        async with http2(server) as client:
            for _ in range(NUM_STREAMS):
                stream = await client.request("POST", "/v1/chat/completions", chat_body("!stall 1", stream=True))
                client.connection.reset_stream(stream)
            await client.flush()
            await server.until_active(0)
            last = await client.request("GET", "/health")
            while last not in client.ended:
                await client.turn()
            assert b'"ok"' in client.data[last]
        await server.until_active(0)
        await server.until_no_connections()

    run_live(test)


def test_a_connection_whose_last_stream_was_reset_does_not_stay_for_ever() -> None:
    """As any other that is idle it is closed after a while, though its client keeps it open."""

    async def test(server: Live) -> None:
        async with http2(server) as client:
            stream = await client.request("POST", "/v1/chat/completions", chat_body("!stall 1", stream=True))
            while not client.data[stream]:
                await client.turn()
            client.connection.reset_stream(stream)
            await client.flush()
            with pytest.raises(EOFError):
                while True:
                    await client.turn()

    run_live(test, keep_alive_seconds=0.1)


def test_what_comes_after_the_answer_does_not_end_the_connection() -> None:
    """A call that is refused, whose client goes on sending, beside one that runs."""

    async def test(server: Live) -> None:
        async with http2(server) as client:
            kept = await client.request("POST", "/v1/chat/completions", chat_body("!stall 1", stream=True))
            headers = (("te", "trailers"), ("content-type", "application/grpc"))
            refused = await client.request("POST", "/no.Service/Method", b"a", *headers, end=False)
            while refused not in client.ended:
                await client.turn()
            client.writer.write(DataFrame(refused, b"too late").serialize())
            await client.flush()
            while not client.data[kept]:
                await client.turn()
            await server.say("!release")
            while kept not in client.ended:
                await client.turn()
            assert client.data[kept].endswith(b"data: [DONE]\n\n")

    run_live(test, keep_alive_seconds=0.1)
