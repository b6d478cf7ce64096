"""Transcripts of the OpenAI API."""

from typing import Any

import pytest

from tests.protocols.transcripts import check, names
from tests.server.live import chat_body

pytestmark = pytest.mark.program
CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
USAGE = {"stream_options": {"include_usage": True}}
TOOL = {"type": "function", "function": {"name": "f"}}

EXCHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "openai-chat": (CHAT, chat_body("!say Hello there.")),
    "openai-chat-stream": (CHAT, chat_body("!say Hello there.", stream=True)),
    "openai-chat-stream-usage": (CHAT, chat_body("!say Hello there.", stream=True, n=2, **USAGE)),
    "openai-chat-stream-error": (CHAT, chat_body("!crash SIGABRT 1", stream=True)),
    "openai-chat-error": (CHAT, chat_body("hello", temperature="hot")),
    "openai-chat-unknown-model": (CHAT, chat_body("hello") | {"model": "nope"}),
    "openai-chat-tools": (CHAT, chat_body('!call 1 {"a":1}', tools=[TOOL])),
    "openai-chat-tools-stream": (CHAT, chat_body('!call 2 {"a":1}', tools=[TOOL], stream=True)),
    "openai-chat-tools-error": (CHAT, chat_body("hello", tools=[TOOL, TOOL])),
    "openai-chat-reasoning": (CHAT, chat_body("!think 1 Hm. Yes")),
    "openai-chat-reasoning-stream": (CHAT, chat_body("!think 1 Hm. Yes", stream=True, **USAGE)),
    "openai-responses": (RESPONSES, {"model": "echo", "input": "!think 1 Hm. Yes"}),
    "openai-responses-stream": (RESPONSES, {"model": "echo", "input": "!say Hello there.", "stream": True}),
    "openai-responses-stream-error": (RESPONSES, {"model": "echo", "input": "!crash SIGABRT 1", "stream": True}),
    "openai-responses-tools-stream": (
        RESPONSES,
        {"model": "echo", "input": '!call 1 {"a":1}', "stream": True, "tools": [{"type": "function", "name": "f"}]},
    ),
    "openai-responses-error": (RESPONSES, {"model": "echo", "input": "hi", "previous_response_id": "resp_1"}),
    "openai-chat-ignored": (CHAT, chat_body("!say Hello there.", user="me")),
    "openai-completions": (COMPLETIONS, {"model": "echo", "prompt": ["!say one", "!say two"]}),
    "openai-completions-stream": (COMPLETIONS, {"model": "echo", "prompt": "!say one", "stream": True, **USAGE}),
}


VARYING = (
    (r"(chatcmpl|cmpl|req|resp|msg|rs|fc)([-_])[0-9a-f]{24}", r"\1\2ID"),
    (r'"(created|created_at|completed_at)":\d+', r'"\1":TIME'),
    (r'"load_ms":[\d.]+', '"load_ms":LOAD'),
)


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_wire_is_what_it_was(name: str) -> None:
    check(name, *EXCHANGES[name], VARYING)


def test_there_is_no_transcript_too_many() -> None:
    assert names("openai") == set(EXCHANGES)
