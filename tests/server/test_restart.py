"""What was computed for a prompt outlives the server (--kv-cache), as clients of the real program see it."""

import base64
import json
import os
import shutil
import signal
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from tests.program import DEMO, DEMO_ID, LIMIT_SECONDS, Program, program, run

pytestmark = [pytest.mark.model, pytest.mark.program]

PROMPT = ", ".join(str(number) for number in range(100, 130)) + ","
KEY = base64.b64encode(b"k" * 32).decode()
Serve = Callable[..., AbstractContextManager[Program]]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def serve(tmp_path: Path, cache: Path) -> Serve:
    def served(*flags: str, place: str = "one") -> AbstractContextManager[Program]:
        (tmp_path / place).mkdir(exist_ok=True)
        always = ("--model-path", str(DEMO), "--ctx", "1024", "--kv-cache", "1G")
        return program(tmp_path / place, *always, *flags, environment={"XDG_CACHE_HOME": str(cache)})

    return served


def ask(server: Program, prompt: str = PROMPT, key: str = "", max_tokens: int = 6, **fields: Any) -> tuple[int, str]:
    """How many tokens of the prompt were not cached, and the answer."""
    body = {"model": DEMO_ID, "prompt": prompt, "temperature": 0, "max_tokens": max_tokens, **fields}
    headers = {"content-type": "application/json", "x-api-key": key}
    request = urllib.request.Request(f"{server.url}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
        said = json.load(answer)
    usage = said["usage"]
    return usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"], said["choices"][0]["text"]


def test_a_prompt_is_not_computed_again(serve: Serve, cache: Path) -> None:
    with serve() as server:
        cold, answer = ask(server)
        wait_for_an_entry(cache)
    assert cold > 64
    with serve() as server:
        assert ask(server) == (1, answer)


def test_a_command_and_a_server_use_the_same(serve: Serve, cache: Path, tmp_path: Path) -> None:
    flags = ["--raw", "--temperature", "0", "--max-tokens", "6", "--model-path", str(DEMO), "--kv-cache", "1G"]
    environment = {"XDG_CACHE_HOME": str(cache), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    done = run("generate", DEMO_ID, "--prompt", PROMPT, *flags, env=environment)
    assert done.returncode == 0, done.stderr
    with serve("--ctx", "8192") as server:
        uncached, answer = ask(server)
    assert (uncached, f"{answer}\n") == (1, done.stdout)


def test_each_api_key_finds_its_own(serve: Serve, cache: Path) -> None:
    keys = ("--api-key", "ann", "--api-key", "bob")
    with serve(*keys) as server:
        cold, _ = ask(server, key="ann")
        wait_for_an_entry(cache)
    with serve(*keys) as server:
        assert [ask(server, key=key)[0] for key in ("bob", "ann")] == [cold, 1]
    for path in (cache / "shimmy" / "states").iterdir():
        assert b"ann" not in path.read_bytes()[:32]


def test_keys_of_the_server_and_of_requests(serve: Serve, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    sealed = ("--kv-cache-key-file", str(tmp_path / "key"))
    with serve(*sealed) as server:
        cold, _ = ask(server)
        assert ask(server, encryption_key=KEY)[0] == cold
        wait_for_an_entry(cache, 2)
    with serve(*sealed) as server:
        assert [ask(server)[0], ask(server, encryption_key=KEY)[0]] == [1, 1]
    with serve() as server:
        assert [ask(server)[0], ask(server, encryption_key=KEY)[0]] == [cold, 1]


def test_a_worker_that_is_killed_has_stored_its_prompts(serve: Serve, cache: Path) -> None:
    with serve() as server:
        ask(server, max_tokens=1)
        wait_for_an_entry(cache)
        (killed,) = server.worker_pids()
        os.kill(killed, signal.SIGKILL)
        deadline = time.monotonic() + LIMIT_SECONDS
        while server.worker_pids() in ([], [killed]):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert ask(server)[0] == 1


def test_two_servers_and_a_cache_that_vanishes(serve: Serve, cache: Path) -> None:
    with serve() as one, serve(place="other") as other:
        cold, answer = ask(one)
        wait_for_an_entry(cache)
        assert ask(other) == (1, answer)
        shutil.rmtree(cache / "shimmy" / "states")
        uncached, _ = ask(other, "Once more: " + PROMPT)
        assert uncached >= cold
        wait_for_an_entry(cache)
        assert ask(one, "Once more: " + PROMPT)[0] == 1


def wait_for_an_entry(cache: Path, count: int = 1) -> None:
    """What a server that ends has no time to store is a miss, and others may want the processor."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while len([*(cache / "shimmy" / "states").glob("*.kv")]) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # Another process looks again after a moment.
    time.sleep(0.1)
