"""Claude Code without its terminal: one turn, with a system prompt that the small model has room for, and no tools."""

import json
import os
import subprocess
from typing import Any

from report import report, task

WRAPPER = "node_modules/@anthropic-ai/claude-code/cli-wrapper.cjs"
os.environ |= {
    "ANTHROPIC_BASE_URL": task["url"],
    "ANTHROPIC_AUTH_TOKEN": "unused",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL": task["model"],
    "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "1000",
    "MAX_THINKING_TOKENS": "0",
    # Else a small model does not come to an end.
    "CLAUDE_CODE_EXTRA_BODY": json.dumps({"temperature": 0}),
    # Nothing but the server is asked for anything.
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
}
brief = ("--system-prompt", "Be brief.", "--tools", "")


def claude(*arguments: str) -> str:
    done = subprocess.run(["node", WRAPPER, *arguments], capture_output=True, text=True, timeout=240)
    return done.stdout


def ask(*flags: str, model: str = task["model"]) -> list[Any]:
    """The lines of an answer."""
    lines = claude("-p", task["question"], "--model", model, *brief, "--output-format", *flags).splitlines()
    return [json.loads(line) for line in lines]


def chat() -> str:
    (answer,) = ask("json")
    assert not answer["is_error"] and answer["stop_reason"] == "end_turn", answer
    text: str = answer["result"]
    return text


def stream() -> list[str]:
    lines = ask("stream-json", "--verbose", "--include-partial-messages")
    deltas = [line["event"].get("delta", {}) for line in lines if line["type"] == "stream_event"]
    return [delta["text"] for delta in deltas if delta.get("type") == "text_delta"]


def error() -> Any:
    (answer,) = ask("json", model=task["unknown"])
    return {"class": "is_error", "status": answer["api_error_status"], "message": answer["result"]}


report(
    claude("--version").split()[0],
    {"chat": chat, "stream": stream, "error": error},
    absent={
        "models": "lists its own",
        "embed": "Anthropic's API has none",
        **dict.fromkeys(("tools", "results", "schema", "usage"), "needs a model that can follow its prompt"),
    },
)
