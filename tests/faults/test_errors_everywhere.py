"""Every error in the shape of the protocol it belongs to, whoever makes it: a route, the guards, or a worker that dies
within a stream. WebSocket and gRPC, whose errors have no body of their own, have the same in tests/protocols."""

import json
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from shimmy.core.keys import ApiKey
from tests.program import inside
from tests.server.live import Answer, Inside, Live, run_inside, run_live, with_settings

pytestmark = [pytest.mark.slow, pytest.mark.program]

KEY, TIRED_KEY = "key", "tired"
Shape = Callable[[Any], str]


def openai(content: Any) -> str:
    """The message; fails unless the body is an error of this protocol and nothing else. So do those below."""
    assert list(content) == ["error"] and set(content["error"]) == {"message", "type", "param", "code"}
    return str(content["error"]["message"])


def anthropic(content: Any) -> str:
    assert set(content) == {"type", "error", "request_id"} and content["type"] == "error"
    assert set(content["error"]) == {"type", "message"} and content["request_id"]
    return str(content["error"]["message"])


def ollama(content: Any) -> str:
    assert set(content) == {"error", "code"} and content["code"]
    return str(content["error"])


class Wire(NamedTuple):
    """One route: `body` of a prompt, `stray` a path beside it that is none, `last` what a stream that failed ends
    with, as an error's body."""

    path: str
    shape: Shape
    body: Callable[[str], dict[str, Any]]
    last: Callable[[bytes], Any]
    stray: str

    def ask(self, prompt: str, stream: bool = False) -> dict[str, Any]:
        return {"model": "echo", "stream": stream} | self.body(prompt)


def messages(prompt: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": prompt}], "max_tokens": 50}


def last_data(body: bytes) -> Any:
    return json.loads(body.rstrip().rpartition(b"data: ")[2])


def failed_response(body: bytes) -> Any:
    """The event before the last says the same in OpenAI's usual words."""
    *_, error, last = [json.loads(line[6:]) for line in body.splitlines() if line.startswith(b"data: ")]
    assert (error["type"], last["type"], last["response"]["status"]) == ("error", "response.failed", "failed")
    return {"error": {name: error.get(name) for name in ("message", "param", "code")} | {"type": error["type"]}}


def anthropic_event(body: bytes) -> Any:
    assert body.rstrip().rpartition(b"\n\n")[2].startswith(b"event: error\n")
    return last_data(body)


def last_line(body: bytes) -> Any:
    assert body.endswith(b"\n")
    return json.loads(body.splitlines()[-1])


def raw_text(body: bytes) -> Any:
    """The original has no more than a word for it."""
    return {"error": body.rstrip().rpartition(b"data: [ERROR] ")[2].decode(), "code": "none in a stream"}


WIRES = {
    "chat": Wire("/v1/chat/completions", openai, messages, last_data, "/v1/chat/nope"),
    "completions": Wire("/v1/completions", openai, lambda prompt: {"prompt": prompt}, last_data, "/v1/nope"),
    "responses": Wire("/v1/responses", openai, lambda prompt: {"input": prompt}, failed_response, "/nope"),
    "anthropic": Wire("/v1/messages", anthropic, messages, anthropic_event, "/v1/messages/nope"),
    "ollama chat": Wire("/api/chat", ollama, messages, last_line, "/api/nope"),
    "ollama generate": Wire(
        "/api/generate", ollama, lambda prompt: {"prompt": prompt, "options": {}}, last_line, "/api/generate/nope"
    ),
    "native": Wire(
        "/api/generate", ollama, lambda prompt: {"prompt": prompt, "max_tokens": 50}, raw_text, "/api/models/nope"
    ),
}


def says(wire: Wire, answer: Answer, status: int) -> str:
    """The message of an answer that is an error, and nothing else."""
    assert (answer.status, answer.headers["content-type"]) == (status, "application/json"), answer
    message = wire.shape(answer.json())
    assert message
    return message


@pytest.mark.parametrize("name", WIRES)
def test_a_crash_within_a_stream_is_its_last_event(name: str) -> None:
    wire = WIRES[name]

    async def test(server: Live) -> None:
        answer = await server.ask("POST", wire.path, wire.ask("!crash SIGABRT 2", stream=True))
        assert answer.status == 200 and b"w0" in answer.body and b"[DONE]" not in answer.body
        assert "worker process ended" in wire.shape(wire.last(answer.body))
        whole = await server.ask("POST", wire.path, wire.ask("!crash SIGABRT 3"))
        assert "worker process ended" in says(wire, whole, 502)

    run_live(test)


@pytest.mark.parametrize("name", WIRES)
def test_what_guards_refuse_has_the_shape_of_the_path(name: str) -> None:
    wire = WIRES[name]
    tired = ApiKey.of(TIRED_KEY, requests_per_minute=1)

    async def test(server: Live) -> None:
        body, path = wire.ask("hi"), wire.path
        says(wire, await server.ask("POST", path, body), 401)
        says(wire, await server.ask("POST", path, body, x_api_key="wrong"), 401)
        says(wire, await server.ask("POST", path, body, x_api_key=KEY, host="evil.example"), 403)
        says(wire, await server.ask("POST", path, body, x_api_key=KEY, origin="http://evil.example"), 403)
        says(wire, await server.ask("POST", wire.stray, body, x_api_key=KEY), 404)
        says(wire, await server.ask("DELETE", path, x_api_key=KEY), 405)
        says(wire, await server.ask("POST", path, b"\x1f\x8b", x_api_key=KEY, content_encoding="gzip"), 400)
        says(wire, await server.ask("POST", path, x_api_key=KEY, content_length=str(1 << 40)), 413)
        assert (await server.ask("POST", path, body, x_api_key=TIRED_KEY)).status == 200
        refused = await server.ask("POST", path, body, x_api_key=TIRED_KEY)
        says(wire, refused, 429)
        assert int(refused.headers["retry-after"]) > 0

    run_live(test, settings=with_settings(api_keys=(KEY, tired)))


@inside("settings without flags")
@pytest.mark.parametrize("name", WIRES)
def test_what_comes_too_late_has_the_shape_of_the_path(name: str) -> None:
    """A body that does not arrive, and a server that leaves."""
    wire = WIRES[name]

    async def test(server: Inside) -> None:
        async with server.connect() as client:
            await client.request("POST", wire.path, b"{", content_length="99")
            says(wire, await client.answer(), 408)
        await server.inference.drain(0)
        for stream in (False, True):
            assert "shutting down" in says(wire, await server.ask("POST", wire.path, wire.ask("hi", stream)), 503)

    run_inside(test, settings=with_settings(body_seconds=0.1))


def images(url: str) -> dict[str, tuple[Wire, dict[str, Any]]]:
    """Requests with a picture that is somewhere else, in the form of each protocol that has pictures."""
    chat, responses, anthropic = WIRES["chat"], WIRES["responses"], WIRES["anthropic"]
    ollama_chat, ollama_generate = WIRES["ollama chat"], WIRES["ollama generate"]
    by_url = {"type": "image", "source": {"type": "url", "url": url}}
    shown = {"type": "tool_result", "tool_use_id": "a", "content": [by_url]}
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]}
    return {
        "chat": (chat, messages([{"type": "image_url", "image_url": {"url": url}}])),
        "chat, as a text": (chat, messages([{"type": "image_url", "image_url": url}])),
        "chat, a sound": (chat, messages([{"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}])),
        "chat, a file": (chat, messages([{"type": "file", "file": {"file_data": url}}])),
        "responses": (
            responses,
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]},
        ),
        "responses, a file": (
            responses,
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": url}]}]},
        ),
        "anthropic": (anthropic, messages([by_url])),
        "anthropic, a document": (anthropic, messages([by_url | {"type": "document"}])),
        "anthropic, from a tool": (
            anthropic,
            {"messages": [*messages("hi")["messages"], call, *messages([shown])["messages"]], "max_tokens": 5},
        ),
        "ollama chat": (ollama_chat, {"messages": [{"role": "user", "content": "hi", "images": [url]}]}),
        "ollama generate": (ollama_generate, {"prompt": "hi", "images": [url]}),
    }


def test_a_picture_s_address_is_refused_and_never_fetched() -> None:
    """Also where nothing but the address could be wrong with it."""
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/picture.png"

        async def test(server: Live) -> None:
            for name, (wire, fields) in images(url).items():
                for stream in (False, True):
                    answer = await server.ask("POST", wire.path, {"model": "echo", "stream": stream} | fields)
                    assert says(wire, answer, 400), name
            with pytest.raises(BlockingIOError):
                elsewhere.accept()

        run_live(test)
