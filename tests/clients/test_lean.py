"""The program needs none of what llama-cpp-python's package would import."""

from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.program import DEMO, DEMO_ID, program, unfrozen

pytestmark = [pytest.mark.model, pytest.mark.program]

BLOCKER = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numpy", "jinja2", "diskcache", "llama_cpp", "gguf", "pydantic", "requests"}:
            raise ImportError(f"{name} is absent")

sys.meta_path.insert(0, Refuse())
"""


@unfrozen("tests/frozen/test_contents.py lists what it has")
def test_a_chat_is_answered_with_numpy_jinja2_and_diskcache_absent(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    path = {"PYTHONPATH": str(tmp_path)}
    with program(tmp_path, "--model-path", str(DEMO), environment=path) as running:
        messages: Any = [{"role": "user", "content": "What is the capital of Japan?"}]
        with OpenAI(base_url=f"{running.url}/v1", api_key="unused", max_retries=0) as client:
            answer = client.chat.completions.create(model=DEMO_ID, messages=messages, temperature=0)
        assert "Tokyo" in (answer.choices[0].message.content or "")
