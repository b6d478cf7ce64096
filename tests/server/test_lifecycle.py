"""The server as a process: how it starts, what it says, and how it leaves."""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from shimmy import __version__
from shimmy.core.keys import ApiKey
from shimmy.core.settings import Settings
from shimmy.server import lifecycle, logs
from shimmy.server.listen import Listener
from tests import program
from tests.fakes.instead import fake_workers
from tests.fakes.pool import scripted_model
from tests.program import LIMIT_SECONDS, inside

pytestmark = [pytest.mark.slow, pytest.mark.program]

ROOT = Path(__file__).parents[2]
ECHO = {"echo": "ready"}


class Served:
    """One process over fake workers; `models` says of each id how loading goes. `url` waits until it is ready."""

    def __init__(self, folder: Path, flags: dict[str, Any], models: dict[str, str], stderr: int | None) -> None:
        self.folder = folder / "models"
        self.folder.mkdir()
        for id, load in models.items():
            scripted_model(id, self.folder, load)
        self.ready_file = folder / "ready.json"
        self.stderr = folder / "stderr.txt"
        self.open = ExitStack()
        flags = {"bind": "127.0.0.1:0", "ready_file": self.ready_file, "model_dirs": self.folder} | flags
        home = {"HOME": str(folder), "PATH": os.environ["PATH"]}
        with open(self.stderr, "w") as log:
            self.process = program.start(
                "serve", *words(flags), cwd=folder, env=home | fake_workers(), stderr=stderr or log
            )

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (found := condition()):
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)
        return found

    @property
    def ready(self) -> dict[str, Any]:
        self.until(lambda: self.ready_file.exists() or self.process.poll() is not None)
        content: dict[str, Any] = json.loads(self.ready_file.read_text())
        return content

    @property
    def said(self) -> str:
        return self.stderr.read_text()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = self.connection()
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.load(answer)

    def connection(self) -> http.client.HTTPConnection:
        address = self.ready["url"].removeprefix("http://")
        return self.open.enter_context(closing(http.client.HTTPConnection(address, timeout=LIMIT_SECONDS)))

    def stream(self, prompt: str) -> http.client.HTTPResponse:
        """A stream whose worker is at it already."""
        connection = self.connection()
        body = {"model": "echo", "stream": True, "messages": [{"role": "user", "content": prompt}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body))
        answer = self.open.enter_context(connection.getresponse())
        assert b"role" in answer.readline()
        return answer

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self) -> int:
        return self.process.wait(LIMIT_SECONDS)

    def close(self) -> None:
        self.open.close()
        self.process.kill()
        self.process.wait()


def words(flags: dict[str, Any]) -> Iterator[str]:
    """`drain_seconds=1` is `--drain-seconds 1`; a list repeats its flag."""
    for name, values in flags.items():
        for value in values if isinstance(values, list) else [values]:
            yield from (f"--{name.replace('_', '-')}", str(value))


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    started: list[Served] = []

    def start(models: dict[str, str] = ECHO, stderr: int | None = None, **flags: Any) -> Served:
        started.append(Served(tmp_path, flags, models, stderr))
        return started[-1]

    yield start
    for served in started:
        served.close()


def test_it_says_where_it_is_once_it_answers(serve: Serve) -> None:
    served = serve()
    assert served.ready == {"url": served.ready["url"], "pid": served.process.pid, "version": __version__}
    assert served.ask("GET", "/health")[0] == 200
    served.until(lambda: f"listening on {served.ready['url']}" in served.said)
    assert [path.name for path in served.ready_file.parent.glob("ready*")] == ["ready.json"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_work_it_leaves_at_once(serve: Serve, number: signal.Signals) -> None:
    served = serve()
    idle = served.connection()
    idle.request("GET", "/health")
    assert idle.getresponse().read()
    served.signal(number)
    assert served.exit_code() == 0
    assert not served.ready_file.exists()
    assert "Traceback" not in served.said


def test_it_finishes_its_streams_before_it_leaves(serve: Serve) -> None:
    served = serve()
    answer = served.stream("!flood 5000")  # more than fits on the way: it is still at it
    served.signal(signal.SIGTERM)
    served.until(lambda: served.ask("GET", "/readyz") == (503, {"status": "draining"}))
    status, content = served.ask("POST", "/v1/completions", {"model": "echo", "prompt": "hi"})
    assert (status, content["error"]["code"]) == (503, "server_draining")
    assert served.ask("GET", "/health")[0] == 200
    assert answer.read().endswith(b"data: [DONE]\n\n")
    assert served.exit_code() == 0


def test_streams_that_take_too_long_end_with_an_error_event(serve: Serve) -> None:
    served = serve(drain_seconds=0.1)
    answer = served.stream("!stall 1")
    served.signal(signal.SIGTERM)
    last = answer.read().split(b"\n\n")[-2]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "server_draining"
    assert served.exit_code() == 0
    assert "1 requests have 0.1 s" in served.said and "Traceback" not in served.said


def test_a_client_that_does_not_read_cannot_keep_it(serve: Serve) -> None:
    served = serve(drain_seconds=0.1)
    served.stream("!flood 5000")
    served.signal(signal.SIGTERM)
    assert served.exit_code() == 0
    assert "Traceback" not in served.said


def test_a_second_signal_ends_it_on_the_spot(serve: Serve) -> None:
    served = serve()
    served.stream("!stall 1")
    served.signal(signal.SIGTERM)
    served.until(lambda: "a second signal" in served.said)
    served.signal(signal.SIGINT)
    assert served.exit_code() == 130
    assert not served.ready_file.exists()


def test_it_leaves_while_it_loads(serve: Serve) -> None:
    served = serve({"echo": "hold"}, preload=["echo"])
    served.until(lambda: served.ask("GET", "/readyz")[1].get("fraction"))
    served.signal(signal.SIGTERM)
    assert served.exit_code() == 0


def test_a_port_in_use(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        served = serve(bind=f"127.0.0.1:{port}")
        assert served.exit_code() == 4
    assert str(port) in served.said and "--bind auto" in served.said
    assert not served.ready_file.exists()


def test_no_address_for_everyone_without_a_key(serve: Serve) -> None:
    served = serve(bind="192.0.2.1:0")
    assert served.exit_code() == 2
    assert "--api-key" in served.said and "--insecure-no-auth" in served.said


@inside("a port that other machines can reach")
def test_an_address_for_everyone_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(logs, "say", said.append)
    monkeypatch.setattr(logs, "configure", lambda log_format: None)
    monkeypatch.setattr(lifecycle, "listen", lambda settings: Listener("0.0.0.0", "0.0.0.0", 80, -1))
    monkeypatch.setattr(lifecycle, "_run", lambda *arguments: asyncio.sleep(0, result=0))
    assert lifecycle.serve(Settings(insecure_no_auth=True)) == 0
    assert any("WARNING" in line and "port 80" in line for line in said)
    said.clear()
    assert lifecycle.serve(Settings(api_keys=(ApiKey.of("key"),))) == 0
    assert said == []


def test_without_models_it_serves_and_says_where_it_looked(serve: Serve) -> None:
    served = serve({})
    served.until(lambda: "no models found" in served.said and f"--model-dirs: {served.folder}" in served.said)
    assert served.ask("GET", "/v1/models") == (200, {"object": "list", "data": []})


def test_readiness_waits_for_what_is_preloaded(serve: Serve) -> None:
    served = serve({"first": "ready", "second": "hold"}, preload=["first", "second"])
    served.until(lambda: served.ask("GET", "/readyz") == (503, {"status": "loading", "fraction": 0.75}))
    assert served.ask("GET", "/health")[0] == 200
    (served.folder / "second.gguf.go").touch()
    served.until(lambda: served.ask("GET", "/readyz") == (200, {"status": "ready"}))


def test_what_cannot_be_preloaded_is_said_and_the_rest_is_served(serve: Serve) -> None:
    served = serve({"echo": "ready", "bad": "fail model_failed no tensor"}, preload=["bad", "nope", "echo"])
    served.until(lambda: served.ask("GET", "/readyz")[1]["status"] == "failed")
    status, report = served.ask("GET", "/readyz")
    assert (status, set(report["failures"])) == (503, {"bad", "nope"})
    served.until(lambda: "cannot load bad: " in served.said and "cannot load nope: " in served.said)
    assert served.ask("POST", "/v1/completions", {"model": "echo", "prompt": "hi"})[0] == 200


def test_the_model_given_as_a_file_is_preloaded(serve: Serve, tmp_path: Path) -> None:
    served = serve(model_path=scripted_model("echo", tmp_path, "ready").paths[0])
    served.until(lambda: served.ask("GET", "/readyz")[0] == 200)
    assert served.ask("GET", "/v1/models/echo")[1]["state"] == "ready"


def test_what_is_pinned_is_loaded_and_stays_when_others_leave(serve: Serve) -> None:
    served = serve({"kept": "ready", "other": "ready"}, pin=["kept"], keep_alive="0")
    served.until(lambda: served.ask("GET", "/readyz")[0] == 200)
    for model in ("kept", "other"):
        assert served.ask("POST", "/v1/completions", {"model": model, "prompt": "hi"})[0] == 200
    served.until(lambda: [each["name"] for each in served.ask("GET", "/api/ps")[1]["models"]] == ["kept:latest"])


def test_a_budget_that_is_too_small_for_anything_is_said(serve: Serve) -> None:
    served = serve(memory_budget="1M", preload=["echo"])
    served.until(lambda: served.ask("GET", "/readyz")[1]["status"] == "failed")
    served.until(lambda: "cannot load echo: model 'echo' needs " in served.said)


def test_a_file_that_is_replaced_is_loaded_unasked_and_no_request_fails(serve: Serve) -> None:
    served = serve(preload=["echo"])

    def pid() -> str:
        status, answer = served.ask("POST", "/v1/completions", {"model": "echo", "prompt": "!pid"})
        assert status == 200, answer
        return str(answer["choices"][0]["text"])

    served.until(lambda: served.ask("GET", "/readyz")[0] == 200)
    served.until(lambda: "listening on" in served.said)
    first = pid()
    scripted_model("echo", served.folder, "ready")
    served.until(lambda: pid() != first)


def test_a_ready_file_that_cannot_be_written(serve: Serve, tmp_path: Path) -> None:
    served = serve({}, ready_file=str(tmp_path / "no" / "such" / "folder"))
    assert served.exit_code() == 1
    assert "ready file" in served.said


def test_it_outlives_whoever_reads_its_log(serve: Serve) -> None:
    reader, writer = os.pipe()
    served = serve(stderr=writer)
    os.close(writer)
    assert served.ask("GET", "/health")[0] == 200
    os.close(reader)
    for _ in range(3):
        assert served.ask("GET", "/nope")[0] == 404
    served.signal(signal.SIGTERM)
    assert served.exit_code() == 0


@inside("when a module is imported")
def test_the_http_stack_is_not_imported_before_it_is_needed() -> None:
    """A model that is preloaded starts loading first; and `--help` and the like never pay for it."""
    code = "import sys, shimmy.server.lifecycle; print(sorted({'starlette', 'hypercorn', 'anyio'} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"
