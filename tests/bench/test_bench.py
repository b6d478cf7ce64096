"""The benchmark against a server whose every figure is known, because it is written here."""

import asyncio
import json
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from bench.client import Endpoint, HttpError, Reply
from bench.measure import Contention, Decode, Join, Prefill, Round, Startup
from bench.process import Memory, descendants, free_port
from bench.prompts import long_prompt, story_prompt
from bench.report import metrics, ratios, table

pytestmark = pytest.mark.slow

Pieces = Callable[[], AsyncIterator[bytes]]


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def text(piece: str) -> bytes:
    return event(choices=[{"index": 0, "text": piece}], usage=None)


def usage(prompt: int, completion: int) -> bytes:
    return event(choices=[], usage={"prompt_tokens": prompt, "completion_tokens": completion})


async def one_answer(head: bytes, pieces: Pieces, is_chunked: bool) -> Reply:
    """What the client makes of one connection that is answered with these bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(head)
        async for piece in pieces():
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if is_chunked else piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n" if is_chunked else b"")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        return await Endpoint(f"http://127.0.0.1:{port}", "m").complete("p", 8)


def answer(*pieces: bytes, status: str = "200 OK", is_chunked: bool = True) -> Reply:
    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    kind = b"Transfer-Encoding: chunked\r\n" if is_chunked else b""
    return asyncio.run(one_answer(f"HTTP/1.1 {status}\r\n".encode() + kind + b"\r\n", stream, is_chunked))


@pytest.mark.parametrize("is_chunked", [True, False])
def test_text_and_usage_are_the_servers(is_chunked: bool) -> None:
    pieces = [event(choices=[{"text": ""}]), text("One"), text(" two"), usage(7, 5), b"data: [DONE]\n\n"]
    reply = answer(*pieces, is_chunked=is_chunked)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("One two", 7, 5)
    assert len(reply.arrived_at) == 2


def test_events_may_be_cut_anywhere_and_comments_between_them() -> None:
    whole = b": ping\n\n" + text("One") + text(" two") + usage(1, 2) + b"data: [DONE]\n\n"
    reply = answer(*(whole[start : start + 7] for start in range(0, len(whole), 7)))
    assert reply.text == "One two"


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b'{"error": {}}'], "503 Service Unavailable"),
        ([text("One"), event(error={"message": "worker lost"})], "200 OK"),
        ([text("One"), b"data: [DONE]\n\n"], "200 OK"),
        ([usage(1, 0), b"data: [DONE]\n\n"], "200 OK"),
    ],
    ids=["refused", "error in the stream", "no usage", "no text"],
)
def test_an_answer_that_cannot_be_measured_is_an_error(pieces: list[bytes], status: str) -> None:
    with pytest.raises(HttpError) as caught:
        answer(*pieces, status=status)
    assert caught.value.status == int(status.split()[0])


def test_the_worst_gap_is_between_two_pieces_and_not_before_the_first() -> None:
    reply = Reply(sent_at=0.0, arrived_at=[5.0, 5.5, 7.0, 7.1])
    assert reply.first_token_seconds == 5.0
    assert reply.worst_gap_seconds == 1.5
    assert Reply(sent_at=0.0, arrived_at=[5.0]).worst_gap_seconds == 0.0


def test_nobody_listening_has_no_status() -> None:
    assert asyncio.run(Endpoint(f"http://127.0.0.1:{free_port()}", "m").status("/health")) is None


def test_prompts_are_the_same_for_every_server_and_different_every_time() -> None:
    assert long_prompt(50, "a") == long_prompt(50, "a") != long_prompt(50, "b")
    assert story_prompt("a") == story_prompt("a") != story_prompt("b")
    assert len(long_prompt(50, "a").split()) == 50


def test_descendants_include_the_grandchild() -> None:
    script = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        found = descendants(os.getpid())
        assert child.pid in found
        assert len(descendants(child.pid)) == 2
        child.communicate(b"\n")


def a_round(server: str, number: int, speed: float) -> Round:
    return Round(
        server=server,
        number=number,
        startup=Startup(0.05, 0.2),
        prefills=[Prefill(512, 2.0), Prefill(511, 1.5)],
        decodes=[Decode(1, [96], 96 / speed, speed, 0.01, 1.0)],
        join=Join(512, 1.0, 0.2),
        contentions=[Contention(1, speed, speed / 2)],
        memory=Memory(2_000_000, 1_000_000, 500_000, 2),
        cpu_seconds=3.0,
    )


def test_ratios_pair_the_rounds_and_more_tokens_are_better() -> None:
    ours = metrics([a_round("ours", 1, 100.0), a_round("ours", 2, 150.0), a_round("ours", 3, 120.0)])
    theirs = metrics([a_round("theirs", 1, 100.0), a_round("theirs", 2, 100.0), a_round("theirs", 3, 100.0)])
    decode = next(metric for metric in ours if metric.name == "decode, 1 stream")
    prefill = next(metric for metric in ours if metric.name.startswith("first token, 512"))
    assert (decode.best, decode.median) == (150.0, 120.0)
    assert prefill.best == 1500.0
    ratio = next(ratio for ratio in ratios(ours, theirs) if ratio.metric == "decode, 1 stream")
    assert (ratio.min, ratio.median, ratio.max) == (1.0, 1.2, 1.5)
    lines = table({"ours": ours, "theirs": theirs}, ratios(ours, theirs)).splitlines()
    assert any(line.startswith("decode, 1 stream") and line.endswith("1.00 / 1.20") for line in lines)


FAKE_SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert request["stream_options"]["include_usage"] and request["model"] == "fake", request
        self.send_response(200)
        self.end_headers()
        events = [{"choices": [{"text": "x"}]}] * request["max_tokens"]
        usage = {"prompt_tokens": len(request["prompt"].split()) * 2, "completion_tokens": request["max_tokens"]}
        for event in [*events, {"choices": [], "usage": usage}]:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")
    def log_message(self, *_):
        pass
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_whole_run_with_two_servers_in_turns(tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    script.write_text(FAKE_SERVER)
    output = tmp_path / "out.json"
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{port}}"
    options = ["--model", "fake", "--rounds", "2", "--streams", "1", "3", "--max-tokens", "6", "--contend"]
    servers = ["--server", f"a={command}", "--server", f"b={command}"]
    finished = subprocess.run(
        [sys.executable, "-m", "bench", *servers, *options, "--output", str(output)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert finished.returncode == 0, finished.stderr
    document = json.loads(output.read_text())
    assert [(each["server"], each["number"]) for each in document["rounds"]] == [("a", 1), ("b", 1), ("b", 2), ("a", 2)]
    first = document["rounds"][0]
    assert first["decodes"][1]["completion_tokens"] == [6, 6, 6]
    assert [prefill["prompt_tokens"] for prefill in first["prefills"]] == [512, 512, 512]
    assert first["startup"]["first_token_seconds"] > first["startup"]["healthy_seconds"] > 0
    assert first["memory"]["rss"] >= first["memory"]["pss"] > 1_000_000
    assert len(document["ratios"]) == len(document["figures"]["a"])


def test_a_server_that_dies_ends_the_run_with_its_last_words() -> None:
    server = f"dead={shlex.quote(sys.executable)} -c \"import sys; sys.exit('no such model')\""
    finished = subprocess.run(
        [sys.executable, "-m", "bench", "--server", server],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert finished.returncode == 1
    assert "no such model\nbench: the server ended with status 1" in finished.stderr
