"""opencode without its terminal: one turn, with a prompt that the small model has room for, and no tools."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from report import report, task

models = {name: {"name": name, "limit": {"context": 8192, "output": 60}} for name in (task["model"], task["unknown"])}
provider = {"npm": "@ai-sdk/openai-compatible", "options": {"baseURL": f"{task['url']}/v1"}, "models": models}
agents = {"build": {"prompt": "Answer briefly.", "tools": {"*": False}, "temperature": 0}, "title": {"disable": True}}
config = {"autoupdate": False, "share": "disabled", "provider": {"shimmy": provider}, "agent": agents}
Path("opencode.json").write_text(json.dumps(config))
# Nothing but the server is asked for anything.
os.environ |= dict.fromkeys(("OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_LSP_DOWNLOAD"), "1")


def opencode(*arguments: str) -> str:
    command = ["node_modules/opencode-linux-x64/bin/opencode", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL).stdout


def ask(model: str = task["model"]) -> list[Any]:
    """What happened in a turn."""
    lines = opencode("run", "--format", "json", "--model", f"shimmy/{model}", task["question"]).splitlines()
    return [json.loads(line) for line in lines]


def chat() -> str:
    happened = ask()
    assert happened[-1]["type"] == "step_finish" and happened[-1]["part"]["reason"] == "stop", happened
    return "".join(each["part"]["text"] for each in happened if each["type"] == "text")


def error() -> Any:
    (failed,) = [each["error"] for each in ask(task["unknown"]) if each["type"] == "error"]
    return {"class": failed["name"], "status": failed["data"].get("statusCode"), "message": failed["data"]["message"]}


report(
    opencode("--version").strip(),
    {"chat": chat, "error": error},
    absent={
        "models": "lists its own",
        "stream": "shows whole answers",
        "embed": "has none",
        **dict.fromkeys(("usage", "tools", "results", "schema"), "needs a model that can follow its prompt"),
    },
)
