"""Codex without its terminal: one turn, with instructions that the small model has room for, and most of its tools."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from report import report, task

home = Path.cwd() / "codex"
home.mkdir()
os.environ["CODEX_HOME"] = str(home)
(home / "brief.md").write_text("You answer briefly.")
# JSON is TOML where it is a text.
(home / "config.toml").write_text(f"""
model_provider = "shimmy"
model_instructions_file = {json.dumps(str(home / "brief.md"))}
check_for_update_on_startup = false
[analytics]
enabled = false
[features]
goals = false
[skills]
include_instructions = false
[model_providers.shimmy]
name = "Shimmy"
base_url = {json.dumps(task["url"] + "/v1")}
wire_api = "responses"
request_max_retries = 0
stream_max_retries = 0
""")


def codex(*arguments: str) -> str:
    command = ["node_modules/.bin/codex", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL).stdout


def ask(model: str = task["model"]) -> list[Any]:
    """What happened in a turn."""
    lines = codex("exec", "--skip-git-repo-check", "--json", "--model", model, task["question"]).splitlines()
    return [json.loads(line) for line in lines]


def chat() -> str:
    happened = ask()
    assert happened[-1]["type"] == "turn.completed" and happened[-1]["usage"]["output_tokens"] > 0, happened
    items = [each["item"] for each in happened if each["type"] == "item.completed"]
    return "".join(item["text"] for item in items if item["type"] == "agent_message")


def error() -> Any:
    failed = ask(task["unknown"])[-1]
    return {"class": failed["type"], "status": None, "message": failed["error"]["message"]}


report(
    codex("--version").split()[-1],
    {"chat": chat, "error": error},
    absent={
        "models": "lists its own",
        "stream": "shows whole answers",
        "embed": "has none",
        **dict.fromkeys(("usage", "tools", "results", "schema"), "needs a model that can follow its prompt"),
    },
)
