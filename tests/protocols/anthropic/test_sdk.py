"""The official SDK against fake workers: what each answer, error and broken stream becomes in a client's hands."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.server.live import Live, run_live, with_settings

anthropic = pytest.importorskip("anthropic", reason="the anthropic SDK is not installed (make setup installs it)")

pytestmark = [pytest.mark.slow, pytest.mark.program]

TOOL = {"name": "f", "input_schema": {"type": "object"}}


def say(prompt: str, **fields: Any) -> Any:
    return {"model": "echo", "max_tokens": 100, "messages": [{"role": "user", "content": prompt}], **fields}


def with_client(test: Callable[[Any], None], **options: Any) -> None:
    """Run a test of the synchronous SDK in a thread, beside the server."""
    key = options.pop("key", "dummy")

    def in_thread(url: str) -> None:
        with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as client:
            test(client)

    async def main(server: Live) -> None:
        await asyncio.to_thread(in_thread, server.url)

    run_live(main, **options)


def test_create_and_count() -> None:
    def test(client: Any) -> None:
        answer = client.messages.create(**say("one two three", max_tokens=2))
        assert [block.text for block in answer.content] == ["one two"]
        assert (answer.stop_reason, answer.usage.input_tokens, answer.usage.output_tokens) == ("max_tokens", 3, 2)
        assert answer._request_id.startswith("req_")
        count = {"model": "echo", "messages": [{"role": "user", "content": "abc"}]}
        assert client.messages.count_tokens(**count).input_tokens == len("[abc]>")
        assert client.beta.messages.count_tokens(**count, betas=["unknown-2030-01-01"]).input_tokens == len("[abc]>")

    with_client(test)


def test_the_streaming_helper_puts_all_together() -> None:
    def test(client: Any) -> None:
        with client.messages.stream(**say("!think 2 Hm. So yes", thinking={"type": "adaptive"})) as stream:
            final = stream.get_final_message()
        thought, text = final.content
        assert (thought.thinking, text.text, final.stop_reason) == ("Hm. So", " yes", "end_turn")
        assert thought.signature and final.usage.output_tokens == 3
        with client.messages.stream(**say("one two")) as stream:
            assert "".join(stream.text_stream) == "one two"

    with_client(test)


def test_calls_and_their_results() -> None:
    def test(client: Any) -> None:
        asked = say('!call 2 {"a": 1}', tools=[TOOL])
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
        whole = client.messages.create(**asked)
        for answer in (whole, streamed):
            calls = [(block.id, block.name, block.input) for block in answer.content if block.type == "tool_use"]
            assert calls == [("id0", "f", {"a": 1}), ("id1", "f", {"a": 1})] and answer.stop_reason == "tool_use"
        results = [{"type": "tool_result", "tool_use_id": id, "content": "12"} for id, *_ in calls]
        back = {"role": "user", "content": [*results, {"type": "text", "text": "and?"}]}
        turns = [*asked["messages"], {"role": "assistant", "content": streamed.content}, back]
        assert client.messages.create(**(asked | {"messages": turns})).content[0].text == "and?"

    with_client(test)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        (say("x", model="claude-opus-5"), "NotFoundError", "claude-opus-5"),
        (say("x", stop_sequences="x"), "BadRequestError", "stop_sequences: "),
        (say("!fail unavailable full"), "ServiceUnavailableError", "full"),
        (say("!fail queue_full later"), "RateLimitError", "later"),
        (say("!crash SIGABRT 1"), "InternalServerError", "SIGABRT"),
    ],
)
def test_errors_are_the_sdk_s_exceptions(fields: Any, error: str, words: str) -> None:
    def test(client: Any) -> None:
        with pytest.raises(anthropic.APIStatusError, match=words) as caught:
            client.messages.create(**fields)
        assert isinstance(caught.value, getattr(anthropic._exceptions, error))
        assert caught.value.request_id.startswith("req_")
        assert caught.value.body["error"]["type"].endswith("_error")

    with_client(test)


def test_a_wrong_key() -> None:
    def test(client: Any) -> None:
        with pytest.raises(anthropic.AuthenticationError):
            client.messages.create(**say("x"))

    with_client(test, settings=with_settings(api_keys=("right",)), key="wrong")
    with_client(lambda client: client.messages.create(**say("x")), settings=with_settings(api_keys=("k",)), key="k")


def test_a_stream_that_breaks_is_an_exception() -> None:
    def test(client: Any) -> None:
        texts = []
        with pytest.raises(anthropic.APIStatusError, match="SIGABRT"):
            with client.messages.stream(**say("!crash SIGABRT 2")) as stream:
                texts += stream.text_stream
        assert "".join(texts) == "w0 w1"

    with_client(test)


def test_closing_a_stream_aborts_its_request() -> None:
    async def test(server: Live) -> None:
        async with anthropic.AsyncAnthropic(base_url=server.url, api_key="dummy", max_retries=0) as client:
            stream = await client.messages.create(**say("!stall 3"), stream=True)
            async for event in stream:
                if event.type == "content_block_delta":
                    break
            await stream.close()
            await server.until_logged("abort msg_")

    run_live(test)
