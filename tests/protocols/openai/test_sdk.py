"""The official SDK against fake workers: what each answer, error and broken stream becomes in a client's hands."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from openai import (
    APIError,
    APIStatusError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)

from tests.program import inside
from tests.server.live import Live, run_live, with_settings

pytestmark = [pytest.mark.slow, pytest.mark.program]


def say(prompt: str, **fields: Any) -> Any:
    return {"model": "echo", "messages": [{"role": "user", "content": prompt}], **fields}


def with_client(test: Callable[[OpenAI], None], **options: Any) -> None:
    """Run a test of the synchronous SDK in a thread, beside the server."""
    key = options.pop("key", "dummy")
    retries = options.pop("max_retries", 0)

    def in_thread(url: str) -> None:
        with OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries) as client:
            test(client)

    async def main(server: Live) -> None:
        await asyncio.to_thread(in_thread, server.url)

    run_live(main, **options)


def test_chat() -> None:
    def test(client: OpenAI) -> None:
        answer = client.chat.completions.create(**say("one two three", max_completion_tokens=2))
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("one two", "length")
        assert answer.usage is not None and answer.usage.total_tokens == 5
        assert answer._request_id is not None and answer._request_id.startswith("req_")

    with_client(test)


def test_chat_streamed() -> None:
    def test(client: OpenAI) -> None:
        chunks = list(
            client.chat.completions.create(**say("one two", stream=True, stream_options={"include_usage": True}))
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "one two"
        assert chunks[0].choices[0].delta.role == "assistant"
        assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["stop"]
        assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 4

    with_client(test)


def test_the_streaming_helper() -> None:
    def test(client: OpenAI) -> None:
        with client.chat.completions.stream(**say("one two")) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].message.content == "one two"

    with_client(test)


def test_completions_and_models() -> None:
    def test(client: OpenAI) -> None:
        answer = client.completions.create(model="echo", prompt=["a", "b"])
        assert [choice.text for choice in answer.choices] == ["a", "b"]
        streamed = client.completions.create(model="echo", prompt="a b", stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed) == "a b"
        assert [model.id for model in client.models.list()] == ["echo"]
        assert client.models.retrieve("echo").owned_by == "shimmy"

    with_client(test)


def test_the_asynchronous_client() -> None:
    async def test(server: Live) -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0) as client:
            answers = await asyncio.gather(*(client.chat.completions.create(**say(f"number {i}")) for i in range(8)))
            assert [answer.choices[0].message.content for answer in answers] == [f"number {i}" for i in range(8)]
            stream = await client.chat.completions.create(**say("one two", stream=True))
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "one two"

    run_live(test)


def test_closing_a_stream_stops_its_sequence() -> None:
    async def test(server: Live) -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0) as client:
            stream = await client.chat.completions.create(**say("!stall 3", stream=True))
            async for _ in stream:
                break
            await stream.close()
            await server.until_logged("abort chatcmpl-")

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "error", "code"),
    [
        (say("hi", temperature=1000), BadRequestError, "invalid_request"),
        (say("hi", model="nope"), NotFoundError, "model_not_found"),
        (say("word " * 5000), BadRequestError, "context_length_exceeded"),
        (say("hi", tools=[{"type": "custom", "custom": {"name": "f"}}]), BadRequestError, "unsupported_parameter"),
        (say("!crash SIGABRT 2"), InternalServerError, "worker_lost"),
    ],
)
def test_errors_become_the_right_exceptions(fields: Any, error: type[APIStatusError], code: str) -> None:
    def test(client: OpenAI) -> None:
        with pytest.raises(error) as caught:
            client.chat.completions.create(**fields)
        assert (caught.value.code, caught.value.request_id is not None) == (code, True)

    with_client(test)


def test_a_wrong_key_is_an_authentication_error() -> None:
    def refused(client: OpenAI) -> None:
        with pytest.raises(AuthenticationError):
            client.models.list()

    def let_in(client: OpenAI) -> None:
        assert list(client.models.list())

    settings = with_settings(api_keys=("sesame",))
    with_client(refused, settings=settings)
    with_client(let_in, settings=settings, key="sesame")


def test_an_error_within_a_stream_is_raised() -> None:
    """Silence would pass for success with this SDK."""

    def test(client: OpenAI) -> None:
        with pytest.raises(APIError) as caught:
            list(client.chat.completions.create(**say("!break worker_lost it fell over", stream=True)))
        assert (caught.value.code, caught.value.type) == ("worker_lost", "server_error")
        assert "it fell over" in caught.value.message

    with_client(test)


@inside("ping_seconds")
def test_pings_are_not_seen() -> None:
    def test(client: OpenAI) -> None:
        stream = client.chat.completions.create(**say("!stall 2", stream=True))
        received = ""
        for chunk in stream:
            received += chunk.choices[0].delta.content or ""
            if received == "w0 w1":
                client.chat.completions.create(**say("!release"))
        assert received == "w0 w1"

    with_client(test, settings=with_settings(ping_seconds=0.005))


@pytest.mark.parametrize(("order", "status"), [("!crash SIGABRT 2", 502), ("!fail internal_error oops", 500)])
def test_what_will_not_get_better_is_not_retried(order: str, status: int) -> None:
    def test(client: OpenAI) -> None:
        attempts: list[int] = []
        client._client.event_hooks = {"response": [lambda response: attempts.append(response.status_code)]}
        with pytest.raises(APIStatusError):
            client.chat.completions.create(**say(order))
        assert attempts == [status]

    with_client(test, max_retries=2)


@inside("max_queued_requests")
def test_a_full_queue_is_retried_when_it_says_so() -> None:
    async def test(server: Live) -> None:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="dummy", max_retries=0) as client:
            stalled = await client.chat.completions.create(**say("!stall 1", stream=True))
            await anext(aiter(stalled))
            with pytest.raises(RateLimitError) as caught:
                await client.chat.completions.create(**say("hi"))
            assert caught.value.response.headers["retry-after-ms"] == "1000"
            waiting = asyncio.create_task(client.with_options(max_retries=2).chat.completions.create(**say("hi")))
            await stalled.close()
            assert (await waiting).choices[0].message.content == "hi"

    run_live(test, max_requests=1)
