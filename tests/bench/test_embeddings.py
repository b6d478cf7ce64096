"""The comparison of two servers that make vectors, with servers of known speed."""

import asyncio
import shlex
import sys

import pytest

from bench import embeddings
from bench.embeddings import Scenario, measure, table

pytestmark = pytest.mark.slow

# A text takes the milliseconds that its first argument says; a word is a token.
FAKE_SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({"data": [{"id": "the model"}]})
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert request["model"] == "the model", request
        texts = request["input"] if isinstance(request["input"], list) else [request["input"]]
        time.sleep(len(texts) * float(sys.argv[1]) / 1000)
        entries = [{"index": index, "embedding": ""} for index in range(len(texts))]
        self.answer({"data": entries, "usage": {"total_tokens": sum(len(text.split()) for text in texts)}})
    def answer(self, content):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""


def test_the_ratio_is_that_of_the_times_of_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = Scenario("2 clients", 2, 2, 3, 5)
    monkeypatch.setattr(embeddings, "SCENARIOS", [scenario])
    command = shlex.join([sys.executable, "-c", FAKE_SERVER])
    pairs = asyncio.run(measure({"fast": f"{command} 5 {{port}}", "slow": f"{command} 40 {{port}}"}, 2))
    assert [pair.scenario for pair in pairs] == [scenario] * 2
    for pair in pairs:
        assert pair.first.tokens == pair.second.tokens == 2 * 2 * 3 * 5
        # This machine may make them longer, and not always both.
        assert pair.first.seconds > 12 * 0.005 and pair.second.seconds > 12 * 0.04
        assert pair.ratio == pair.second.seconds / pair.first.seconds
    shown = table(["fast", "slow"], pairs)
    assert "2 clients" in shown and len(shown.splitlines()) == 2
