"""Whole exchanges as they go over the wire, compared byte by byte; what differs each time is put into capitals.

`REGENERATE=1 python -m pytest tests/protocols/ollama/test_golden.py` writes tests/golden anew.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.server.live import Live, chat_body, run_live

pytestmark = pytest.mark.program
GOLDEN = Path(__file__).parents[2] / "golden"
CHAT, GENERATE = "/api/chat", "/api/generate"
TOOL = {"type": "function", "function": {"name": "f"}}

EXCHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "ollama-chat": (CHAT, chat_body("!say Hello there.", stream=False)),
    "ollama-chat-stream": (CHAT, chat_body("!say Hello there.")),
    "ollama-chat-stream-error": (CHAT, chat_body("!crash SIGABRT 1")),
    "ollama-chat-unknown-model": (CHAT, chat_body("hello") | {"model": "nope"}),
    "ollama-chat-tools-stream": (CHAT, chat_body('!call 1 {"a":1}', tools=[TOOL])),
    "ollama-chat-thinking-stream": (CHAT, chat_body("!think 1 Hm. Yes", think=True)),
    "ollama-generate-stream": (GENERATE, {"model": "echo", "prompt": "!say Hello there."}),
    "ollama-generate-load": (GENERATE, {"model": "echo"}),
    "ollama-generate-native": (GENERATE, {"model": "echo", "prompt": "!say Hello there.", "max_tokens": 9}),
    "ollama-embed": ("/api/embed", {"model": "echo", "input": ["a b", "abc"]}),
    "ollama-pull": ("/api/pull", {"model": "llama3.2"}),
}


def normalised(answer: str) -> str:
    for pattern, replacement in (
        (r"req_[0-9a-f]{24}", "req_ID"),
        (r'"created_at":"[^"]+"', '"created_at":"TIME"'),
        (r'"(total|load)_duration":\d+', r'"\1_duration":NANOSECONDS'),
        (r"date: .*", "date: DATE"),
        (r"content-length: \d+", "content-length: LENGTH"),
    ):
        answer = re.sub(pattern, replacement, answer)
    return answer


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_wire_is_what_it_was(name: str) -> None:
    path, body = EXCHANGES[name]

    async def test(server: Live) -> None:
        answer = await server.ask("POST", path, body)
        headers = "".join(f"{field}: {value}\n" for field, value in answer.headers.items())
        received = normalised(f"HTTP {answer.status}\n{headers}\n{answer.body.decode()}")
        transcript = f"POST {path}\n{json.dumps(body)}\n\n{received}"
        file = GOLDEN / f"{name}.txt"
        if os.environ.get("REGENERATE"):
            file.write_text(transcript)
        assert transcript == file.read_text()

    run_live(test)


def test_there_is_no_transcript_too_many() -> None:
    assert {path.stem for path in GOLDEN.glob("ollama-*.txt")} == set(EXCHANGES)
