"""Models that requests pull, copy and remove: the whole program, with a hub on this machine."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.gguf_writer import model
from tests.fakes.hub import Hub, noise, running_hub
from tests.program import LIMIT_SECONDS, Program, program, run
from tests.worker import tiny_models

pytestmark = [pytest.mark.program, pytest.mark.slow]

NAME = "hf.co/Org/Tiny-GGUF:Q4_0"
PULL = {"model": "Org/Tiny-GGUF", "stream": False}


@contextmanager
def served(folder: Path, *flags: str) -> Iterator[tuple[Program, Hub]]:
    with running_hub(folder / "hub") as hub:
        hub.repositories["Org/Tiny-GGUF"] = {"Tiny-Q4_0.gguf": model("Tiny").encode()}
        (folder / "home").mkdir()
        with program(folder / "home", *flags, environment=hub.environ) as running:
            yield running, hub
    assert "Traceback" not in (folder / "home" / "stderr.txt").read_text()


def ask(running: Program, method: str, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(running.url + path, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ids(running: Program) -> list[str]:
    return [each["id"] for each in running.get("/v1/models")["data"]]


def until_listed(running: Program, wanted: list[str]) -> None:
    """What another process brings or removes is seen after a moment."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while ids(running) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_model_is_there_as_soon_as_its_pull_ends(tmp_path: Path) -> None:
    with served(tmp_path, "--allow-pull") as (running, hub):
        status, body = ask(running, "POST", "/api/pull", {"model": "Org/Tiny-GGUF"})
        lines = [json.loads(line) for line in body.splitlines()]
        assert ids(running) == [NAME]
        assert (status, lines[0], lines[-1]) == (200, {"status": "pulling manifest"}, {"status": "success"})
        (digest,) = {line["digest"] for line in lines if "digest" in line}
        (tagged,) = running.get("/api/tags")["models"]
        assert f"sha256:{tagged['digest']}" == digest
        assert ask(running, "POST", "/api/pull", {"name": "Org/Tiny-GGUF:q4_0", "stream": False}) == (
            200,
            b'{"status":"success"}',
        )
        assert ask(running, "POST", "/api/copy", {"source": "org/tiny-gguf", "destination": "mine"})[0] == 200
        assert json.loads(ask(running, "POST", "/api/show", {"model": "mine"})[1])["details"]["format"] == "gguf"
        assert ids(running) == [NAME, "mine"]
        original, copied = running.get("/api/tags")["models"]
        assert copied == original | {"name": "mine:latest", "model": "mine:latest"}
        assert ask(running, "DELETE", "/api/delete", {"model": "mine"})[0] == 200
        assert ids(running) == [NAME]
        assert ask(running, "DELETE", "/api/delete", {"model": "Org/Tiny-GGUF"})[0] == 200
        assert ids(running) == []
        assert ask(running, "DELETE", "/api/delete", {"model": "Org/Tiny-GGUF"})[0] == 404


def test_a_model_that_a_command_pulls_is_there_soon(tmp_path: Path) -> None:
    with served(tmp_path) as (running, hub):
        assert ids(running) == []
        home = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"]}
        assert run("pull", "Org/Tiny-GGUF", env=home | hub.environ).returncode == 0
        until_listed(running, [NAME])
        assert run("rm", NAME, env=home).returncode == 0
        until_listed(running, [])


@pytest.mark.model
def test_two_servers_share_a_store(tmp_path: Path) -> None:
    """Both bring the same model at once and serve it; what one of them removes, the other does not have any more."""
    tiny_models.full(tmp_path / "tiny.gguf")
    for name in ("home", "other"):
        (tmp_path / name).mkdir()
    with running_hub(tmp_path / "hub") as hub:
        hub.repositories["Org/Tiny-GGUF"] = {"Tiny-Q4_0.gguf": (tmp_path / "tiny.gguf").read_bytes()}
        environment = hub.environ | {"HOME": str(tmp_path / "home")}
        with (
            program(tmp_path / "home", "--allow-pull", environment=environment) as one,
            program(tmp_path / "other", "--allow-pull", environment=environment) as other,
            ThreadPoolExecutor() as threads,
        ):
            for remover in (one, other):
                pulls = [threads.submit(ask, each, "POST", "/api/pull", PULL) for each in (one, other)]
                assert [pull.result() for pull in pulls] == [(200, b'{"status":"success"}')] * 2
                for each in (one, other):
                    until_listed(each, [NAME])
                    body = {"model": NAME, "prompt": [5, 6, 7], "max_tokens": 2}
                    status, answer = ask(each, "POST", "/v1/completions", body)
                    assert status == 200, answer
                assert ask(remover, "DELETE", "/api/delete", {"model": NAME})[0] == 200
                for each in (one, other):
                    until_listed(each, [])
    assert list((tmp_path / "home/.local/share/shimmy/store/blobs").glob("*")) == []


@pytest.mark.model
def test_a_loaded_model_stays_whichever_other_names_come_and_go(tmp_path: Path) -> None:
    tiny_models.full(tmp_path / "tiny.gguf")
    with served(tmp_path, "--allow-pull") as (running, hub):
        hub.repositories["Org/Tiny-GGUF"] = {"Tiny-Q4_0.gguf": (tmp_path / "tiny.gguf").read_bytes()}
        assert ask(running, "POST", "/api/pull", PULL)[0] == 200
        assert ask(running, "POST", "/v1/completions", {"model": NAME, "prompt": [5, 6, 7], "max_tokens": 2})[0] == 200
        assert ask(running, "POST", "/api/copy", {"source": NAME, "destination": "a-copy"})[0] == 200
        assert ids(running) == [NAME, "a-copy"]
        assert [each["name"] for each in running.get("/api/ps")["models"]] == [NAME]
        assert ask(running, "DELETE", "/api/delete", {"model": "a-copy"})[0] == 200
        assert ids(running) == [NAME]
        assert [each["name"] for each in running.get("/api/ps")["models"]] == [NAME]


def test_what_a_pull_fails_with(tmp_path: Path) -> None:
    with served(tmp_path, "--allow-pull") as (running, hub):
        for body, status, code in (
            ({"model": "Org/Nothing", "stream": False}, 404, "model_not_found"),
            ({"model": "../etc/passwd", "stream": False}, 400, "invalid_request"),
            ({"model": "169.254.169.254/latest/meta", "stream": False}, 403, "forbidden"),
            ({"model": "Org/Tiny-GGUF", "insecure": True}, 400, "unsupported_parameter"),
            ({}, 400, "invalid_request"),
        ):
            answer = ask(running, "POST", "/api/pull", body)
            assert (answer[0], json.loads(answer[1])["code"]) == (status, code)
        hub.faults.corrupt = True
        *_, last = ask(running, "POST", "/api/pull", {"model": "Org/Tiny-GGUF"})[1].splitlines()
        assert json.loads(last)["code"] == "digest_mismatch"
        assert ids(running) == []


def test_only_a_key_with_the_right_scope_may_pull(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("admin-key name=a scope=admin,infer\nother-key name=b scope=infer\n")
    keys.chmod(0o600)
    with served(tmp_path, "--allow-pull", "--api-keys-file", str(keys)) as (running, hub):
        body = {"model": "Org/Tiny-GGUF", "stream": False}
        assert ask(running, "POST", "/api/pull", body)[0] == 401
        assert ask(running, "POST", "/api/pull", body, Authorization="Bearer other-key")[0] == 403
        assert ask(running, "POST", "/api/pull", body, Authorization="Bearer admin-key")[0] == 200


def test_a_client_that_leaves_ends_its_pull(tmp_path: Path) -> None:
    with served(tmp_path, "--allow-pull") as (running, hub):
        hub.repositories["Org/large"] = {"large-Q4_0.gguf": noise(12 << 20)}
        hub.faults.block_seconds = 0.05
        body = json.dumps({"model": "Org/large"}).encode()
        with urllib.request.urlopen(f"{running.url}/api/pull", body, timeout=LIMIT_SECONDS) as answer:
            while json.loads(answer.readline()).get("completed", 0) < 1 << 20:
                pass
        hub.faults.block_seconds = 0.0
        # The lock is free again, or this would wait for the other.
        lines = ask(running, "POST", "/api/pull", {"model": "Org/large"})[1]
        assert json.loads(lines.splitlines()[-1]) == {"status": "success"}


def test_a_server_that_leaves_ends_its_pulls(tmp_path: Path) -> None:
    with served(tmp_path, "--allow-pull", "--drain-seconds", "600") as (running, hub):
        hub.repositories["Org/large"] = {"large-Q4_0.gguf": noise(12 << 20)}
        hub.faults.held_from = 8 << 20
        body = json.dumps({"model": "Org/large"}).encode()
        answer = urllib.request.urlopen(f"{running.url}/api/pull", body, timeout=LIMIT_SECONDS)
        while json.loads(answer.readline()).get("completed", 0) == 0:
            pass
        running.process.send_signal(signal.SIGTERM)
        with answer:
            last = answer.read().splitlines()[-1]
        assert running.process.wait(LIMIT_SECONDS) == 0
        assert json.loads(last)["code"] == "server_draining"


def test_more_pulls_than_there_may_be(tmp_path: Path) -> None:
    with served(tmp_path, "--allow-pull") as (running, hub):
        hub.repositories["Org/large"] = {"large-Q4_0.gguf": noise(4 << 20)}
        # No pull ends before the last one has come.
        hub.faults.held_from = 0
        body = {"model": "Org/large", "stream": False}
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(ask(running, "POST", "/api/pull", body)[0]))
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + LIMIT_SECONDS
        while len(statuses) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        hub.faults.let_go.set()
        for thread in threads:
            thread.join()
        assert statuses == [429] * 2 + [200] * 4


def test_over_grpc(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc", reason="the client is grpcio")
    from tests.protocols.grpc.official import message, method_of

    with served(tmp_path, "--allow-pull") as (running, hub):
        with grpc.insecure_channel(running.url.removeprefix("http://")) as channel:

            def call(name: str, **fields: Any) -> Any:
                kind, path, arguments = method_of(name)
                return getattr(channel, kind)(path, **arguments)(message(f"{name}Request", **fields))

            *parts, last = call("Pull", repo="Org/Tiny-GGUF", quantization="q4_0")
            assert parts[-1].file == "Tiny-Q4_0.gguf" and parts[-1].downloaded == parts[-1].total > 0
            assert last.done and [model.name for model in call("List").models] == [NAME]
            assert call("Delete", model=NAME).success and not call("List").models
            with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
                call("Delete", model=NAME)
