"""What each dialect makes of what models write, and of what they should not write.

`REGENERATE=1 python -m pytest tests/worker/chat/toolcalls/test_golden.py` reads the texts in golden/ anew. The formats
are those of the models' templates, and of what llama.cpp's tests expect to be read (tests/test-chat.cpp there).
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from shimmy.worker.chat.parts import CallArguments, CallBegin, Content, Doubt, Part, Thought
from tests.worker.chat.toolcalls.answers import answer, read
from tests.worker.chat.toolcalls.dialects import every_dialect

FOLDER = Path(__file__).parent / "golden"
KINDS = (Content, Thought, CallBegin, CallArguments, Doubt)
DIALECTS = {dialect.name: dialect for dialect in every_dialect()}


def test_every_dialect_has_transcripts() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(DIALECTS)


@pytest.mark.parametrize("name", DIALECTS)
def test_transcripts_are_read_as_before(name: str) -> None:
    path = FOLDER / f"{name}.json"
    cases = json.loads(path.read_text("utf-8"))
    found = [{"text": case["text"], "parts": written(read(DIALECTS[name], [case["text"]]))} for case in cases]
    if "REGENERATE" in os.environ:
        path.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")
    assert found == cases


@pytest.mark.parametrize("name", DIALECTS)
def test_arguments_are_an_object_unless_there_is_doubt(name: str) -> None:
    for case in json.loads((FOLDER / f"{name}.json").read_text("utf-8")):
        found = answer(read(DIALECTS[name], [case["text"]]))
        if not found.doubts:
            assert all(isinstance(json.loads(call.arguments), dict) for call in found.calls)


def written(parts: list[Part]) -> list[dict[str, Any]]:
    return [{"kind": type(part).__name__} | part._asdict() for part in parts]
