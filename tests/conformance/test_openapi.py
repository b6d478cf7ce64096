"""/openapi.json read by schemathesis, which makes requests of what it says, right ones and wrong ones, and holds the
answers against it: none is a fault of the server, and each is what the document promises.

In an environment of its own: 60 MB that no other test needs. `python -m pytest tests/conformance` runs it; its lock
file is made in schemathesis/ by `uv pip compile --universal --python-version 3.11 --generate-hashes`.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.clients.environment import Unreachable, python_of
from tests.fakes.gguf_writer import model as small_model
from tests.fakes.instead import fake_workers
from tests.program import program

pytestmark = [pytest.mark.clients, pytest.mark.program]

SECONDS = 60
MODEL = "echo"
# 5xx by design: what no store can do, and what was given less time than it takes.
LEFT_OUT = "^/api/(pull|push|create|copy|delete|blobs/.*)$"
UNTIMED = ("timeout", "queue_timeout")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

OPTIONS = ["--phases", "coverage,fuzzing", "--checks", CHECKS, "--exclude-path-regex", LEFT_OUT, "--no-color"]
LIMITS = ["--seed", "1", "--max-examples", "20", "--max-time", str(SECONDS), "--request-timeout", "20"]


def for_a_model(document: Any) -> Any:
    """The document with one model for all requests, as all others are only refused, and few tokens."""
    for schema in document["components"]["schemas"].values():
        fields = schema.get("properties", {})
        if "model" in fields:
            fields["model"] = {"const": MODEL}
        if "max_tokens" in fields:
            fields["max_tokens"] = {"type": "integer", "minimum": 1, "maximum": 4}
        for name in UNTIMED:
            fields.pop(name, None)
    return document


def test_requests_made_of_the_document_get_what_it_says(tmp_path: Path) -> None:
    try:
        python = python_of(Path(__file__).parent / "schemathesis")
    except Unreachable as why:
        pytest.skip(str(why))
    small_model().write(tmp_path / "models" / f"{MODEL}.gguf")
    with program(tmp_path, environment=fake_workers()) as server:
        described = tmp_path / "openapi.json"
        described.write_text(json.dumps(for_a_model(server.get("/openapi.json"))))
        done = subprocess.run(
            [python, "-m", "schemathesis.cli", "run", described, "--url", server.url, *OPTIONS, *LIMITS],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=SECONDS + 50,
        )
        assert done.returncode == 0, done.stdout
        assert server.get("/health")["status"] == "ok"
