"""The measurement of gaps against a server whose gaps are known."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.client import Reply

pytestmark = pytest.mark.slow

# A token every 5 ms; while a long prompt is computed, for 2 s, every stream is silent.
FAKE_SERVER = """
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
turn = threading.Lock()
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        num_words = len(request["prompt"].split())
        with turn:
            time.sleep(2.0 if num_words > 1000 else 0.001)
        self.send_response(200)
        self.end_headers()
        for _ in range(request["max_tokens"]):
            with turn:
                self.say({"choices": [{"text": "x"}]})
            time.sleep(0.005)
        self.say({"choices": [], "usage": {"prompt_tokens": num_words, "completion_tokens": request["max_tokens"]}})
    def say(self, event):
        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")
    def log_message(self, *_):
        pass
class Server(ThreadingHTTPServer):
    def handle_error(self, *_):
        pass
Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def test_a_whole_run(tmp_path: Path) -> None:
    script = tmp_path / "fake.py"
    script.write_text(FAKE_SERVER)
    output = tmp_path / "out.json"
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(script))} {{port}}"
    finished = subprocess.run(
        [sys.executable, "-m", "bench.gaps", "--rounds", "1", "--server", f"a={command}", "--output", str(output)],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert finished.returncode == 0, finished.stderr
    one, four, short = json.loads(output.read_text())["results"]
    for long in (one, four):
        assert long["prompt_tokens"] == [1512]
        # A silence begins when its last word is read, which may be later than when that was sent: if nobody reads in
        # the middle of it, there are two shorter ones.
        assert long["worst_gap_seconds"] > 0.1 and long["alone_seconds"] > 1.9
        assert 0 <= long["plain_gap_seconds"] < long["worst_gap_seconds"]
    assert short["prompt_tokens"] == [100] * 8 == [100] * len(short["first_token_seconds"])
    assert [each["num_ended"] for each in (one, four, short)] == [0, 0, 0]
    assert "8 short prompts join 4 streams" in finished.stderr


def test_gaps_that_were_over_before_do_not_count() -> None:
    reply = Reply(sent_at=0.0, arrived_at=[1.0, 9.0, 10.0, 12.0, 12.5])
    assert reply.worst_gap_since(9.5) == 2.0
    assert reply.worst_gap_since(8.0) == 8.0, "this one was going on"
    assert reply.worst_gap_since(13.0) == 0.0
