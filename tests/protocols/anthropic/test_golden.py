"""Transcripts of the Anthropic API."""

from typing import Any

import pytest

from tests.protocols.anthropic.exchange import COUNT, MESSAGES, TOOL, body
from tests.protocols.transcripts import check, names

pytestmark = pytest.mark.program
ADAPTIVE = {"thinking": {"type": "adaptive"}}

EXCHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "anthropic-messages": (MESSAGES, body("!say Hello there.")),
    "anthropic-messages-stream": (MESSAGES, body("!say Hello there.", stream=True)),
    "anthropic-messages-stream-error": (MESSAGES, body("!crash SIGABRT 1", stream=True)),
    "anthropic-messages-error": (MESSAGES, body("hello", temperature="hot")),
    "anthropic-messages-image": (MESSAGES, body([{"type": "image", "source": {"type": "url", "url": "http://x/y"}}])),
    "anthropic-messages-unknown-model": (MESSAGES, body("hello") | {"model": "claude-opus-5"}),
    "anthropic-messages-tools": (MESSAGES, body('!call 2 {"a":1}', tools=[TOOL])),
    "anthropic-messages-tools-stream": (MESSAGES, body('!call 2 {"a":1}', tools=[TOOL], stream=True)),
    "anthropic-messages-thinking": (MESSAGES, body("!think 1 Hm. Yes", **ADAPTIVE)),
    "anthropic-messages-thinking-stream": (MESSAGES, body("!think 1 Hm. Yes", stream=True, **ADAPTIVE)),
    "anthropic-count-tokens": (COUNT, body("Hello there.", tools=[TOOL])),
}


VARYING = ((r"(msg|req)_[0-9a-f]{24}", r"\1_ID"), (r'"load_ms":[\d.]+', '"load_ms":LOAD'))


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_wire_is_what_it_was(name: str) -> None:
    check(name, *EXCHANGES[name], VARYING)


def test_there_is_no_transcript_too_many() -> None:
    assert names("anthropic") == set(EXCHANGES)
