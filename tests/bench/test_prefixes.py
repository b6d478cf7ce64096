"""Prompts that begin alike, and servers that do nothing, against a server whose every figure is known."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import peers, report
from bench.client import Endpoint, HttpError
from bench.process import Server
from build import cache

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Half a millisecond for each word that it has not seen at the same place before; it says no usage and knows no /health,
# as llama-cpp-python's. It keeps what it has seen in the file named by its second argument, if there is one.
FAKE_SERVER = """
import json, os, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
turn = threading.Lock()
kept = sys.argv[2] if len(sys.argv) > 2 else None
seen = set(json.load(open(kept))) if kept and os.path.exists(kept) else set()
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words = (request.get("prompt") or request["input"]).split()
        self.send_response(200)
        self.end_headers()
        if self.path == "/extras/tokenize/count":
            self.wfile.write(json.dumps({"count": len(words)}).encode())
            return
        with turn:
            beginnings = [" ".join(words[:end]) for end in range(0, len(words), 50)]
            time.sleep(0.1 * sum(each not in seen for each in beginnings))
            seen.update(beginnings)
            if kept:
                json.dump(list(seen), open(kept, "w"))
        for _ in range(request["max_tokens"]):
            self.wfile.write(b'data: {"choices": [{"text": "x"}]}\\n\\n')
            self.wfile.flush()
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def command(folder: Path, *arguments: str) -> str:
    script = folder / "fake.py"
    script.write_text(FAKE_SERVER)
    return shlex.join([sys.executable, str(script), "{port}", *arguments])


def run(mode: str, folder: Path, *arguments: str) -> dict[str, Any]:
    output = folder / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", mode, *arguments, "--output", str(output)], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(output.read_text())
    return document


def least(returns: list[dict[str, Any]], figure: str) -> float:
    return min(float(each[figure]) for each in returns)


def test_prompts_that_begin_alike(tmp_path: Path) -> None:
    servers = ["--server", f"a={command(tmp_path)}", "--server", f"b={command(tmp_path)}"]
    sizes = ["--rounds", "2", "--clients", "3", "--prompt-tokens", "400", "--max-tokens", "2"]
    document = run("bench.prefixes", tmp_path, *servers, *sizes)
    assert [(each["server"], each["round"]) for each in document["returns"]] == [("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    for each in document["returns"]:
        # Eight pieces of 50 words, and the tail that is new each time.
        assert each["cold_seconds"] > 0.8
        assert all(400 < tokens < 430 for tokens in each["prompt_tokens"]) and each["restarted_seconds"] is None
    # Any single one may be longer on a busy machine.
    assert least(document["returns"], "warm_seconds") < least(document["returns"], "cold_seconds")
    for each in document["crowds"]:
        assert len(each["first_token_seconds"]) == len(each["prompt_tokens"]) == 3
        assert 0.8 < max(each["first_token_seconds"]) <= each["all_seconds"]


def test_what_is_kept_over_a_restart(tmp_path: Path) -> None:
    servers = [f"keeps={command(tmp_path, str(tmp_path / 'kept'))}", f"forgets={command(tmp_path)}"]
    arguments = [word for server in servers for word in ("--server", server)]
    document = run("bench.prefixes", tmp_path, *arguments, "--restart", "--rounds", "2", "--prompt-tokens", "400")
    keeps, forgets = (
        least([each for each in document["returns"] if each["server"] == name], "restarted_seconds")
        for name in ("keeps", "forgets")
    )
    assert keeps < forgets and forgets > 0.8
    assert document["crowds"] == []


def test_a_server_that_does_nothing(tmp_path: Path) -> None:
    server = ["--server", f"a={command(tmp_path)}"]
    document = run("bench.footprint", tmp_path, *server, "--rounds", "2", "--idle-seconds", "0.1")
    for each in document["starts"]:
        assert each["healthy_seconds"] > 0.02 and each["memory"]["rss"] > 1_000_000
        assert (each["idle_seconds"], each["memory"]["num_processes"]) == (0.1, 1)
    assert document["sizes"] == {}


def test_tokens_are_counted_where_no_usage_is_said(tmp_path: Path) -> None:
    async def ask(url: str) -> None:
        endpoint = Endpoint(url, "m")
        while not await endpoint.is_healthy():
            await asyncio.sleep(0.01)
        reply = await endpoint.complete("one two three", 5)
        assert (reply.prompt_tokens, reply.completion_tokens, reply.cached_tokens) == (3, 5, None)
        with pytest.raises(HttpError):
            await endpoint.complete("one two three", 0)

    with Server(command(tmp_path), tmp_path / "log") as server:
        asyncio.run(ask(server.url))


@pytest.fixture
def exe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shimmy"
    path.write_bytes(b"\x7fELF" + bytes(996))
    monkeypatch.setenv("SHIMMY_EXE", str(path))
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path / "cache"))
    return path


def test_known_servers_have_the_same_sizes(exe: Path) -> None:
    commands = dict(peers.named(name) for name in peers.SERVING)
    threads = str(len(os.sched_getaffinity(0)))
    for name, flags in {
        "shimmy": ("--threads", "--ctx"),
        "llama-server": ("-t", "-c"),
        "fastapi": ("--n_threads", "--n_ctx"),
    }.items():
        words = shlex.split(commands[name])
        assert [words[words.index(flag) + 1] for flag in flags] == [threads, "8192"]
        assert "{port}" in commands[name]
    assert shlex.split(commands["shimmy"])[0] == str(exe)


def test_a_server_that_nobody_knows() -> None:
    assert peers.named("x=y --port {port}") == ("x", "y --port {port}")
    for spec in ("nginx", "=y", "x="):
        with pytest.raises(SystemExit, match="neither NAME=COMMAND nor one of shimmy"):
            peers.named(spec)


def test_what_a_program_needs(exe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert peers.files("shimmy") == [exe]
    exe.write_text("#!/bin/sh\n")
    assert peers.files("shimmy") == [] == peers.files("x"), "a script needs more than itself"
    monkeypatch.delenv("SHIMMY_EXE")
    assert peers.files("shimmy") == []


def test_commands_do_not_say_where_things_lie(exe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(exe.parent)
    said = report.public({"a": f"{exe} -m x", "b": f"{cache.root()}/peer/bin/p", "c": os.path.expanduser("~/d")})
    assert said == {"a": "./shimmy -m x", "b": "./cache/peer/bin/p", "c": "~/d"}
    monkeypatch.chdir("/")
    assert report.public({"b": f"{cache.root()}/peer/bin/p"}) == {"b": "CACHE/peer/bin/p"}
