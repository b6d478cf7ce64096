"""Real answers over gRPC: what only a model can show."""

import io
import re
import signal
from contextlib import redirect_stdout
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

pytest.importorskip("grpc", reason="the client is grpcio")
pytest.importorskip("grpc_reflection", reason="the client of the page is grpcio-reflection")

import grpc

from tests.program import DEMO, DEMO_ID, LIMIT_SECONDS, Program, program
from tests.protocols.grpc.official import SPINDLL, chat, message, method_of

pytestmark = [pytest.mark.model, pytest.mark.program]

SERVING = 1
PAGE = Path(__file__).parents[2] / "docs" / "grpc.md"


@pytest.fixture
def channel(server: Program) -> Any:
    with grpc.insecure_channel(address_of(server)) as channel:
        yield channel


def address_of(server: Program) -> str:
    return server.url.removeprefix("http://")


def begin(channel: Any, name: str, request: Any, service: str = SPINDLL) -> Any:
    kind, path, arguments = method_of(name, service)
    return getattr(channel, kind)(path, **arguments)(request, timeout=60)


def call(channel: Any, name: str, request: Any) -> Any:
    """The answer, or the list of all."""
    answer = begin(channel, name, request)
    return list(answer) if hasattr(answer, "__next__") else answer


def test_the_example_of_the_page_runs(server: Program) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    code = code.replace("127.0.0.1:11435", address_of(server)).replace("MODEL", DEMO_ID)
    said = io.StringIO()
    names: dict[str, Any] = {}
    with redirect_stdout(said):
        exec(code, names)
    names["channel"].close()
    assert said.getvalue().strip()


def test_without_a_seed_the_same_request_has_the_same_answer(channel: Any) -> None:
    """That is Spindll's default."""
    request = chat("Name some colours.", model=DEMO_ID, max_tokens=20)
    # The first finds less in the cache than the others, on which the last bit of a logit depends.
    _, one, other = (call(channel, "Chat", request) for _ in range(3))
    text = "".join(piece.token for piece in one)
    assert text and text == "".join(piece.token for piece in other)
    ends = [(answer[-1].finish_reason, answer[-1].usage.completion_tokens) for answer in (one, other)]
    assert ends[0] == ends[1] and 0 < ends[0][1] <= 20


def test_what_was_prefilled_is_found(channel: Any) -> None:
    turn = message("Message", role="user", content="Tell me all that you know of lighthouses and of their keepers.")
    filled = call(channel, "Prefill", message("PrefillRequest", model=DEMO_ID, messages=[turn]))
    assert filled.tokens_cached > 10
    request = message("ChatRequest", model=DEMO_ID, messages=[turn], params=message("GenerateParams", max_tokens=2))
    usage = call(channel, "Chat", request)[-1].usage
    assert (usage.prompt_tokens, usage.cached_tokens) == (filled.tokens_cached, filled.tokens_cached - 1)


def test_what_is_told_of_the_model(channel: Any) -> None:
    assert call(channel, "Load", message("LoadRequest", model=DEMO_ID)).success
    (model,) = [model for model in call(channel, "List", message("ListRequest")).models if model.name == DEMO_ID]
    assert (model.architecture, model.quantization, model.context_length) == ("llama", "Q4_1", 8192)
    (loaded,) = call(channel, "Status", message("StatusRequest")).models
    assert (loaded.name, loaded.context_length) == (DEMO_ID, 2048)
    assert loaded.memory_used > 50 << 20


def test_a_server_that_is_told_to_end_ends_its_calls_and_then_itself(tmp_path: Path) -> None:
    """Streams, and those who only watch: each has a status, and nobody holds it up."""
    # An answer to a question could be over by itself.
    params = message("GenerateParams", max_tokens=4000, temperature=0)
    endless = message("GenerateRequest", model=DEMO_ID, prompt="1, 2, 3, 4, 5,", params=params)
    questions: SimpleQueue[Any] = SimpleQueue()
    questions.put(message("grpc.reflection.v1.ServerReflectionRequest", list_services=""))
    with program(tmp_path, "--model-path", str(DEMO), "--drain-seconds", "0") as running:
        with grpc.insecure_channel(address_of(running)) as channel:
            watched = begin(channel, "Watch", message("grpc.health.v1.HealthCheckRequest"), "grpc.health.v1.Health")
            asked = begin(
                channel, "ServerReflectionInfo", iter(questions.get, None), "grpc.reflection.v1.ServerReflection"
            )
            answer = begin(channel, "Generate", endless)
            assert next(answer).token and next(asked).list_services_response.service
            while next(watched).status != SERVING:
                pass
            running.process.send_signal(signal.SIGTERM)
            for ended in (answer, watched, asked):
                with pytest.raises(grpc.RpcError) as caught:
                    list(ended)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            questions.put(None)
        assert running.process.wait(LIMIT_SECONDS) == 0
