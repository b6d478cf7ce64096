"""Whole exchanges as they go over the wire, compared byte by byte; what differs each time is put into capitals.

`REGENERATE=1 python -m pytest tests/protocols/anthropic/test_golden.py` writes tests/golden anew.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from tests.protocols.anthropic.exchange import COUNT, MESSAGES, TOOL, body
from tests.server.live import Live, run_live

pytestmark = pytest.mark.program
GOLDEN = Path(__file__).parents[2] / "golden"
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


def normalised(answer: str) -> str:
    for pattern, replacement in (
        (r"(msg|req)_[0-9a-f]{24}", r"\1_ID"),
        (r"date: .*", "date: DATE"),
        (r"content-length: \d+", "content-length: LENGTH"),
    ):
        answer = re.sub(pattern, replacement, answer)
    return answer


@pytest.mark.parametrize("name", EXCHANGES)
def test_the_wire_is_what_it_was(name: str) -> None:
    path, asked = EXCHANGES[name]

    async def test(server: Live) -> None:
        async with server.connect() as client:
            await client.request("POST", path, asked)
            answer = await client.answer()
        headers = "".join(f"{field}: {value}\n" for field, value in answer.headers.items())
        content = answer.body.decode()
        received = normalised(f"HTTP {answer.status}\n{headers}\n{content}")
        transcript = f"POST {path}\n{json.dumps(asked)}\n\n{received}"
        file = GOLDEN / f"{name}.txt"
        if os.environ.get("REGENERATE"):
            file.write_text(transcript)
        assert transcript == file.read_text()

    run_live(test)


def test_there_is_no_transcript_too_many() -> None:
    assert {path.stem for path in GOLDEN.glob("anthropic-*.txt")} == set(EXCHANGES)
