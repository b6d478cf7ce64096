"""POST /v1/embeddings and llama-server's /embeddings over fake workers, whose vectors are (length, words, index)."""

import asyncio
import base64
import struct
from typing import Any

import pytest

from tests.program import inside
from tests.server.client import PATIENCE_SECONDS
from tests.server.live import Live, run_live

pytestmark = pytest.mark.program

EMBEDDINGS = "/v1/embeddings"


def body(inputs: Any, **fields: Any) -> dict[str, Any]:
    return {"model": "echo", "input": inputs, **fields}


def test_the_whole_answer() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", EMBEDDINGS, body(["one two", "three"], user="me", unknown=1))
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {
            "object": "list",
            "data": [
                {"object": "embedding", "index": 0, "embedding": [7.0, 2.0, 0.0]},
                {"object": "embedding", "index": 1, "embedding": [5.0, 1.0, 1.0]},
            ],
            "model": "echo",
            "usage": {"prompt_tokens": 3, "total_tokens": 3},
        }

    run_live(test)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("one two", [[7, 2, 0]]),
        ([1, 2, 3], [[8, 3, 0]]),
        ([[1], [2, 3]], [[2, 1, 0], [5, 2, 1]]),
        (["a"] * 2048, [[1, 1, index] for index in range(2048)]),
    ],
    ids=["string", "tokens", "lists of tokens", "many"],
)
def test_inputs(inputs: Any, expected: list[list[float]]) -> None:
    async def test(server: Live) -> None:
        content = (await server.ask("POST", EMBEDDINGS, body(inputs, encoding_format="float"))).json()
        assert [entry["embedding"] for entry in content["data"]] == expected
        assert [entry["index"] for entry in content["data"]] == list(range(len(expected)))

    run_live(test)


def test_base64_is_the_floats() -> None:
    async def test(server: Live) -> None:
        content = (await server.ask("POST", EMBEDDINGS, body(["a b", "c"], encoding_format="base64"))).json()
        vectors = [struct.unpack("<3f", base64.b64decode(entry["embedding"])) for entry in content["data"]]
        assert vectors == [(3, 2, 0), (1, 1, 1)]

    run_live(test)


def test_what_the_worker_gets() -> None:
    async def test(server: Live) -> None:
        content = (await server.ask("POST", EMBEDDINGS, body("a b", dimensions=2))).json()
        assert content["data"][0]["embedding"] == [3, 2]

    run_live(test)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {}}, "input"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": ["a", "b", [1]]}, "input[2]"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": ["a", 1.5]}, "input[1]"),
        ({"input": [[1, "a"]]}, "input[0][1]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"encoding_format": "int8"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"pooling": "none"}, "pooling"),
        ({"pooling": "max"}, "pooling"),
        ({"model": None}, "model"),
        ({"timeout": 0}, "timeout"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", EMBEDDINGS, body("a") | fields)
        assert (answer.status, answer.error["param"]) == (400, param)
        assert answer.error["message"].startswith(f"{param}: ")

    run_live(test)


def test_an_unknown_model() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", EMBEDDINGS, body("a") | {"model": "other"})
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")

    run_live(test)


def test_a_failure_of_the_worker_has_its_status() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", EMBEDDINGS, body(["fine", "!fail context_length_exceeded too long"]))
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")

    run_live(test)


def test_a_worker_that_dies_twice_is_an_error_and_the_next_request_is_fine() -> None:
    async def test(server: Live) -> None:
        answer = await server.ask("POST", EMBEDDINGS, body(["fine", "!crash SIGKILL"]))
        assert (answer.status, answer.error["code"]) == (502, "worker_lost")
        assert (await server.ask("POST", EMBEDDINGS, body("fine"))).status == 200

    run_live(test)


def test_a_client_that_leaves_ends_its_request() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", EMBEDDINGS, body(["a", "!stall"]))
            await server.until_logged("embed embd-")
        await server.until_logged("abort embd-")

    run_live(test)


def test_a_request_ends_with_its_time() -> None:
    async def test(server: Live) -> None:
        await server.say("hello")
        for seconds in PATIENCE_SECONDS:
            answer = await server.ask("POST", EMBEDDINGS, body("!stall", timeout=seconds))
            assert (answer.status, answer.error["code"]) == (504, "deadline_exceeded")
            # It may have been over before the worker had it.
            if "embed embd-" in await server.say("!log"):
                break
        await server.until_logged("abort embd-")

    run_live(test)


@inside("max_queued_requests")
def test_places_are_limited_as_for_all_requests() -> None:
    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", EMBEDDINGS, body("!stall"))
            await server.until_active(1)
            answer = await server.ask("POST", EMBEDDINGS, body("a"))
            assert (answer.status, answer.error["code"]) == (429, "queue_full")

    run_live(test, max_requests=1)


def test_many_at_once() -> None:
    async def test(server: Live) -> None:
        answers = await asyncio.gather(*(server.ask("POST", EMBEDDINGS, body("a" * size)) for size in range(1, 30)))
        lengths = [answer.json()["data"][0]["embedding"][0] for answer in answers]
        assert lengths == list(range(1, 30))

    run_live(test)


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_llama_servers_own_shape(path: str) -> None:
    async def test(server: Live) -> None:
        one = {"index": 0, "embedding": [[3.0, 2.0, 0.0]]}
        assert (await server.ask("POST", path, {"model": "echo", "content": "a b"})).json() == [one]
        assert (await server.ask("POST", path, body(["a b"]))).json() == [one]
        # Its clients name no model.
        assert (await server.ask("POST", path, {"content": "a b"})).json() == [one]
        rows = [{"index": 0, "embedding": [[3.0, 2.0, 0.0]] * 2}, {"index": 1, "embedding": [[1.0, 1.0, 1.0]]}]
        assert (await server.ask("POST", path, body(["a b", "c"], pooling="none"))).json() == rows
        answer = await server.ask("POST", path, {"model": "echo"})
        assert (answer.status, answer.error["param"]) == (400, "input")
        answer = await server.ask("POST", path, {"model": "echo", "content": ["a", 1]})
        assert (answer.status, answer.error["param"]) == (400, "content[1]")

    run_live(test)
