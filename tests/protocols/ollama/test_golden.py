"""Transcripts of Ollama's API."""

from typing import Any

import pytest

from tests.protocols.transcripts import check, names
from tests.server.live import chat_body

pytestmark = pytest.mark.program
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


VARYING = (
    (r"req_[0-9a-f]{24}", "req_ID"),
    (r'"created_at":"[^"]+"', '"created_at":"TIME"'),
    (r'"(total|load)_duration":\d+', r'"\1_duration":NANOSECONDS'),
)


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_wire_is_what_it_was(name: str) -> None:
    check(name, *EXCHANGES[name], VARYING)


def test_there_is_no_transcript_too_many() -> None:
    assert names("ollama") == set(EXCHANGES)
