"""Ollama's API over fake workers: what each request becomes, and what each answer and failure looks like."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shimmy.core.errors import RequestError
from shimmy.core.events import Accepted, Event, Finished, TextDelta, Timings, Usage
from shimmy.models.catalog import Catalog
from shimmy.models.ollama import OllamaStore
from shimmy.protocols.ollama.answer import Answer, generate_shape
from shimmy.protocols.ollama.generation import constraint
from shimmy.protocols.ollama.messages import messages
from shimmy.protocols.ollama.wire import ChatMessage
from tests.fakes import gguf_writer
from tests.fakes.ollama_store import put_model
from tests.program import inside
from tests.server.live import Live, run_inside, run_live

pytestmark = pytest.mark.program

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
COUNTS = {"total_duration", "load_duration", "prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"}


def chat(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "messages": [{"role": "user", "content": prompt}], **fields}


def generate(prompt: str, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "prompt": prompt, **fields}


async def post(server: Live, path: str, body: Any, status: int = 200) -> Any:
    answer = await server.ask("POST", path, body)
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer.body
    return answer.json()


async def lines(server: Live, path: str, body: Any) -> list[Any]:
    answer = await server.ask("POST", path, body)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson"), answer.body
    assert answer.body.endswith(b"\n") and b"\n\n" not in answer.body
    return [json.loads(line) for line in answer.body.splitlines()]


async def asked(server: Live, path: str, body: Any) -> Any:
    """The Generation that a request became."""
    answer = await post(server, path, body | {"stream": False})
    return json.loads(answer["response"] if path == "/api/generate" else answer["message"]["content"])


def test_the_root_and_the_version() -> None:
    async def test(server: Live) -> None:
        for method in ("GET", "HEAD"):
            answer = await server.ask(method, "/")
            assert answer.status == 200 and answer.headers["content-type"].startswith("text/plain")
            assert (await server.ask(method, "/api/version")).status == 200
            assert (await server.ask(method, "/api/tags")).status == 200
        assert (await server.ask("GET", "/")).body == b"Ollama is running"
        version = (await server.ask("GET", "/api/version")).json()["version"]
        assert tuple(map(int, version.split("."))) >= (0, 6, 4)

    run_live(test)


def test_a_stream_is_the_default_and_ends_with_the_counts() -> None:
    async def test(server: Live) -> None:
        *deltas, end = await lines(server, "/api/chat", chat("one two"))
        assert "".join(each["message"]["content"] for each in deltas) == "one two"
        assert all(each["done"] is False and TIME.fullmatch(each["created_at"]) for each in deltas)
        assert (end["done"], end["done_reason"], end["message"]) == (True, "stop", {"role": "assistant", "content": ""})
        assert COUNTS <= set(end)
        assert (end["prompt_eval_count"], end["eval_count"]) == (2, 2)
        assert (end["prompt_eval_duration"], end["eval_duration"]) == (2_000_000, 3_000_000)
        assert end["total_duration"] >= end["load_duration"] > 0
        *deltas, end = await lines(server, "/api/generate", generate("one two", options={"num_predict": 1}))
        assert "".join(each["response"] for each in deltas) == "one"
        assert end["done_reason"] == "length" and end["response"] == ""

    run_live(test)


def test_whole_answers() -> None:
    async def test(server: Live) -> None:
        answer = await post(server, "/api/chat", chat("hi there", stream=False, model="echo:latest"))
        assert answer["message"] == {"role": "assistant", "content": "hi there"} and answer["done"] is True
        assert answer["model"] == "echo:latest"
        answer = await post(server, "/api/generate", generate("!think 1 Hm. Yes", stream=False))
        assert (answer["thinking"], answer["response"]) == ("Hm.", " Yes")

    run_live(test)


def test_calls_are_objects_and_come_whole() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    body = chat('!call 2 {"a": [1, 2]}', tools=tools)
    function = {"name": "f", "arguments": {"a": [1, 2]}}
    expected = [{"id": f"id{at}", "function": {"index": at, **function}} for at in range(2)]

    async def test(server: Live) -> None:
        streamed = await lines(server, "/api/chat", body)
        assert [call for each in streamed for call in each["message"].get("tool_calls", [])] == expected
        assert streamed[-1]["done_reason"] == "stop"
        whole = await post(server, "/api/chat", body | {"stream": False})
        assert whole["message"] == {"role": "assistant", "content": "calling", "tool_calls": expected}

    run_live(test)


def test_a_call_that_was_cut_off_is_left_out() -> None:
    async def test(server: Live) -> None:
        body = chat('!call 1 {"a": 1}', stream=False, options={"num_predict": 3})
        answer = await post(server, "/api/chat", body)
        assert answer["done_reason"] == "length" and "tool_calls" not in answer["message"]

    run_live(test)


def test_options_become_a_generation() -> None:
    options = {"temperature": 0.5, "top_k": 3, "repeat_penalty": 1.2, "seed": 7, "stop": ["x"], "num_ctx": 99999999}
    options |= {"num_predict": -2, "num_gpu": 1, "no_such_option": True}

    async def test(server: Live) -> None:
        generation = await asked(server, "/api/chat", chat("!request", options=options, think="low", format="json"))
        sampling = {"temperature": 0.5, "top_k": 3, "repetition_penalty": 1.2, "seed": 7}
        assert generation["sampling"] == sampling
        assert generation["stop"] == ["x"] and "max_tokens" not in generation
        assert generation["constraint"] == {"kind": "json_object", "text": "", "field": "format"}
        assert generation["prompt"]["reasoning"] == {"enabled": True, "effort": "low"}
        body = generate("!request", format={"type": "object"}, system="Be brief.", think=False)
        generation = await asked(server, "/api/generate", body)
        assert generation["constraint"]["kind"] == "json_schema"
        system, user = generation["prompt"]["messages"]
        assert (system["content"], user["content"]) == ("Be brief.", "!request")
        generation = await asked(server, "/api/generate", generate("!request", raw=True))
        assert generation["prompt"] == {"type": "text", "text": "!request"}
        answer = await post(server, "/api/generate", generate("before", suffix="after", stream=False))
        assert answer["response"] == "[before||after]"

    run_live(test)


def test_an_assistant_s_last_message_is_gone_on_with() -> None:
    async def test(server: Live) -> None:
        body = chat("hello")
        body["messages"].append({"role": "assistant", "content": "!request"})
        prompt = (await asked(server, "/api/chat", body))["prompt"]
        assert prompt["continue_final"] is True and prompt["add_generation_prompt"] is False

    run_live(test)


def test_log_probabilities() -> None:
    async def test(server: Live) -> None:
        body = chat("one", logprobs=True, top_logprobs=1)
        first = (await lines(server, "/api/chat", body))[0]
        (token,) = first["logprobs"]
        assert (token["token"], token["logprob"], token["bytes"]) == ("one", -1.0, list(b"one"))
        assert [each["token"] for each in token["top_logprobs"]] == ["other0"]
        whole = await post(server, "/api/chat", body | {"stream": False})
        assert whole["logprobs"] == first["logprobs"]

    run_live(test)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("/api/chat", chat("hi", model="nope"), 404, "does not exist"),
        ("/api/chat", {}, 400, "model"),
        ("/api/chat", b"{", 400, "JSON"),
        ("/api/chat", chat("hi", options={"temperature": "hot"}), 400, "options.temperature"),
        ("/api/chat", chat("hi", format="yaml"), 400, "format"),
        ("/api/chat", chat("hi", keep_alive="soon"), 400, "keep_alive"),
        ("/api/chat", chat("hi", top_logprobs=2), 400, "top_logprobs"),
        ("/api/chat", {"model": "echo", "messages": [{"role": "user", "images": ["aGk="]}]}, 400, "images"),
        ("/api/chat", chat("hi", tools=[{"function": {"name": "f"}}] * 2), 400, "two tools"),
        ("/api/generate", generate("hi", images=["aGk="]), 400, "images"),
        ("/api/generate", generate("hi", context=[1]), 400, "context"),
        ("/api/generate", generate("hi", template="{{ .Prompt }}"), 400, "template"),
        ("/api/generate", generate("!fail context_length_exceeded too long"), 400, "too long"),
        ("/api/show", {}, 400, "model"),
        ("/api/pull", {"model": "llama3.2"}, 403, "--allow-pull"),
        ("/api/push", {"model": "mine"}, 501, "not implemented"),
        ("/api/create", {"model": "mine", "from": "echo", "stream": False}, 403, "--allow-pull"),
        ("/api/copy", {"source": "a", "destination": "b"}, 403, "--allow-pull"),
        (f"/api/blobs/sha256:{'0' * 64}", b"x", 403, "--allow-pull"),
        ("/api/nope", {}, 404, "/api/nope"),
        ("/api/tags", {}, 405, "GET"),
    ],
)
def test_what_is_refused(path: str, body: Any, status: int, said: str) -> None:
    async def test(server: Live) -> None:
        error = await post(server, path, body, status)
        assert set(error) == {"error", "code"} and said in error["error"]

    run_live(test)


def test_durations_do_not_overlap() -> None:
    """What the worker says it took, and before that how long its model took: the worker tells both at once."""

    async def batches() -> AsyncGenerator[list[Event], None]:
        await asyncio.sleep(0.05)
        finished = Finished("id", 0, "stop", Usage(3, 1), Timings(0.001, 0.02, 0.03, 0.004))
        yield [Accepted("id", 3), TextDelta("id", 0, "one"), finished]

    async def test() -> None:
        whole = json.loads(await Answer("echo", generate_shape).whole(batches()))
        (*_, line) = [line async for line in Answer("echo", generate_shape).lines(batches())]
        for end in (whole, json.loads(line.splitlines()[-1])):
            parts = [end[f"{name}_duration"] for name in ("load", "prompt_eval", "eval")]
            assert parts == [4_000_000, 20_000_000, 30_000_000] and end["total_duration"] >= 50_000_000

    asyncio.run(test())


def test_delete_is_refused() -> None:
    async def test(server: Live) -> None:
        assert (await server.ask("DELETE", "/api/delete", {"model": "echo"})).status == 403

    run_live(test)


@pytest.mark.parametrize("order", ["!crash SIGABRT 1", "!break internal_error oops", "!garbage 1", "!crash-call"])
def test_a_failure_in_a_stream_is_its_last_line(order: str) -> None:
    async def test(server: Live) -> None:
        *_, last = await lines(server, "/api/chat", chat(order))
        assert set(last) == {"error", "code"}

    run_live(test)


def test_nothing_asked_loads_and_unloads() -> None:
    async def test(server: Any) -> None:
        answer = await post(server, "/api/generate", {"model": "echo"})
        assert (answer["response"], answer["done"], answer["done_reason"]) == ("", True, "load")
        assert [each["model"] for each in (await server.ask("GET", "/api/ps")).json()["models"]] == ["echo:latest"]
        answer = await post(server, "/api/chat", {"model": "echo", "messages": [], "keep_alive": 0})
        assert (answer["message"]["content"], answer["done_reason"]) == ("", "unload")
        assert (await server.ask("GET", "/api/ps")).json() == {"models": []}
        await lines(server, "/api/chat", chat("hi", keep_alive="0s"))
        assert (await server.ask("GET", "/api/ps")).json() == {"models": []}

    run_live(test)


@inside("it looks at the requests inside")
def test_a_model_in_use_is_not_unloaded() -> None:
    async def test(server: Any) -> None:
        async with server.connect() as client:
            await client.request("POST", "/api/chat", chat("!stall 1"))
            await client.head()
            error = await post(server, "/api/generate", {"model": "echo", "keep_alive": 0}, 409)
            assert error["code"] == "model_in_use"
            await post(server, "/api/chat", chat("hi", stream=False, keep_alive=0))
            assert len((await server.ask("GET", "/api/ps")).json()["models"]) == 1
        await server.until_active(0)

    run_inside(test)


def test_a_client_that_leaves_ends_its_request() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", "/api/chat", chat("!stall 1"))
            await client.head()
        await server.until_active(0)

    run_live(test)


def test_vectors() -> None:
    async def test(server: Live) -> None:
        answer = await post(server, "/api/embed", {"model": "echo", "input": ["a b", "abc"], "dimensions": 2})
        assert answer["embeddings"] == [[3.0, 2.0], [3.0, 1.0]] and answer["prompt_eval_count"] == 3
        assert answer["total_duration"] >= answer["load_duration"] > 0
        assert (await post(server, "/api/embed", {"model": "echo", "input": "abc"}))["embeddings"] == [[3.0, 1.0, 0.0]]
        assert (await post(server, "/api/embed", {"model": "echo", "input": []}))["embeddings"] == []
        assert await post(server, "/api/embeddings", {"model": "echo", "prompt": "abc"}) == {"embedding": [3, 1, 0]}
        assert await post(server, "/api/embeddings", {"model": "echo"}) == {"embedding": []}
        too_long = {"model": "echo", "input": ["!fail context_length_exceeded long"], "truncate": True}
        assert (await post(server, "/api/embed", too_long, 400))["code"] == "context_length_exceeded"

    run_live(test)


def test_what_is_told_of_a_model(tmp_path: Path) -> None:
    gguf_writer.model(tokenizer__chat_template="{{ tools }}<think>", general__license="MIT").write(
        tmp_path / "Tiny_Model.gguf"
    )

    async def test(server: Live) -> None:
        (listed,) = (await server.ask("GET", "/api/tags")).json()["models"]
        assert listed["name"] == listed["model"] == "tiny-model:latest"
        assert re.fullmatch(r"[0-9a-f]{64}", listed["digest"]) and listed["size"] > 0
        assert listed["modified_at"].endswith("Z")
        details = listed["details"]
        assert set(details) >= {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"}
        assert None not in details.values() and details["families"] == [details["family"]]
        for name in ("tiny-model", "tiny-model:latest", "Tiny_Model:latest"):
            shown = await post(server, "/api/show", {"model": name})
            assert shown["details"] == details
        assert (await post(server, "/api/show", {"name": "tiny-model"})) == shown
        info = shown["model_info"]
        assert info["general.architecture"] == details["family"] and info["general.basename"]
        assert info["tokenizer.ggml.tokens"] is None
        assert shown["template"] == "{{ tools }}<think>" and shown["license"] == "MIT"
        assert {"completion", "tools", "thinking"} == set(shown["capabilities"])
        assert shown["modelfile"].startswith("FROM tiny-model\n") and isinstance(shown["parameters"], str)

    run_live(test, folder=tmp_path)


MARIO: dict[str, Any] = {
    "params": {"temperature": 0.8, "top_k": 7, "stop": ["</s>"], "num_predict": 5, "num_ctx": 512},
    "system": "Be Mario.",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It's a me!"}],
    "license": "MIT",
}


@pytest.fixture
def mario(tmp_path: Path) -> Catalog:
    """A catalogue with one model of that name, and what comes with it."""
    content = gguf_writer.model(tokenizer__chat_template="{{ messages }}").write(tmp_path / "tiny.gguf").read_bytes()
    put_model(tmp_path, "mario:latest", content, **MARIO)
    return Catalog([OllamaStore(str(tmp_path))])


def test_what_comes_with_a_model_is_shown(mario: Catalog) -> None:
    async def test(server: Live) -> None:
        shown = await post(server, "/api/show", {"model": "mario"})
        assert (shown["system"], shown["license"], shown["messages"]) == ("Be Mario.", "MIT", MARIO["messages"])
        lines = ["temperature 0.8", "top_k 7", "num_ctx 512", "num_predict 5", 'stop "</s>"']
        assert shown["parameters"].splitlines() == lines
        assert shown["modelfile"].splitlines() == [
            "FROM mario:latest",
            *(f"PARAMETER {line}" for line in lines),
            'SYSTEM """Be Mario."""',
            'MESSAGE user """Hi"""',
            'MESSAGE assistant """It\'s a me!"""',
            'LICENSE """MIT"""',
        ]

    run_inside(test, catalog=mario)


def test_what_comes_with_a_model_holds_for_what_is_not_asked_for(mario: Catalog) -> None:
    def contents(generation: Any) -> list[str]:
        return [message["content"] for message in generation["prompt"]["messages"]]

    async def test(server: Live) -> None:
        generation = await asked(server, "/api/chat", chat("!request", model="mario"))
        assert contents(generation) == ["Be Mario.", "Hi", "It's a me!", "!request"]
        assert generation["sampling"]["top_k"] == 7
        assert set(generation["sampling"]["explicit"]) == {"temperature", "top_k"}
        assert (generation["stop"], generation["max_tokens"]) == (["</s>"], 5)
        options = {"top_k": 3, "stop": ["x"], "num_predict": 6}
        generation = await asked(server, "/api/generate", generate("!request", model="mario", options=options))
        assert contents(generation) == ["Be Mario.", "Hi", "It's a me!", "!request"]
        assert (generation["sampling"]["top_k"], generation["stop"], generation["max_tokens"]) == (3, ["x"], 6)
        generation = await asked(server, "/api/generate", generate("!request", model="mario", system="Be Luigi."))
        assert contents(generation)[0] == "Be Luigi."
        generation = await asked(server, "/api/generate", generate("!request", model="mario", raw=True))
        assert generation["prompt"] == {"type": "text", "text": "!request"}

    run_inside(test, catalog=mario)


def test_results_find_their_calls() -> None:
    given = [
        {
            "role": "assistant",
            "thinking": "Hm.",
            "tool_calls": [{"function": {"name": name, "arguments": {}, "index": 0}} for name in ("f", "g", "f")],
        },
        {"role": "tool", "tool_name": "g", "content": "1"},
        {"role": "tool", "tool_name": "f", "content": "2"},
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "4", "tool_call_id": "own"},
    ]
    said, *results = messages(msgspec.convert(given, list[ChatMessage]))
    assert said.reasoning == "Hm." and [call.arguments for call in said.tool_calls] == ["{}"] * 3
    ids = [call.id for call in said.tool_calls]
    assert [result.tool_call_id for result in results] == [ids[1], ids[0], ids[2], "own"]


def test_no_format_is_no_constraint() -> None:
    assert constraint(msgspec.Raw(b"null")) is None and constraint(msgspec.Raw(b'""')) is None
    with pytest.raises(RequestError):
        constraint(msgspec.Raw(b"[1]"))


@inside("a setting without a flag")
def test_a_silent_stream_has_its_status_and_no_empty_line() -> None:
    from tests.server.live import with_settings

    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", "/api/chat", chat("!stall 0"))
            assert (await client.head()).status == 200
            while await server.say("!active") != "1":
                pass
            # Time for pings, which would be seen here.
            await asyncio.sleep(0.2)
            await server.chat("!release")
            answer = b"".join([piece async for piece in client.chunks()])
        assert all(json.loads(line) for line in answer.splitlines())

    run_live(test, settings=with_settings(ping_seconds=0.05))


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_the_end_of_an_answer_tells_who_gave_it(path: str) -> None:
    async def test(server: Live) -> None:
        body = chat("!say x") if path == "/api/chat" else generate("!say x")
        *others, last = await lines(server, path, body)
        assert last["system_fingerprint"] == "fp_0123456789_abcdef0123"
        assert not any("system_fingerprint" in line for line in others)
        assert (await post(server, path, body | {"stream": False}))["system_fingerprint"] == last["system_fingerprint"]

    run_live(test)
