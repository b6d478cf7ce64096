"""The command `llm`, with the server among its models as its documentation says."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from report import raised, report, task

home = Path.cwd() / "llm"
home.mkdir()
os.environ["LLM_USER_PATH"] = str(home)
entry = {"api_base": f"{task['url']}/v1", "supports_schema": True, "supports_tools": True}
entries = [{"model_id": name, "model_name": name, **entry} for name in (task["model"], task["unknown"])]
# JSON is YAML.
(home / "extra-openai-models.yaml").write_text(json.dumps(entries))


class CommandError(Exception):
    """The command said so, and ended with 1."""


def llm(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "llm", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise CommandError(done.stderr.strip())
    return done.stdout


def ask(text: str, *flags: str, model: str = task["model"]) -> str:
    limits = ("-o", "temperature", "0", "-o", "max_tokens", "60")
    return llm("prompt", "-m", model, *limits, *flags, text).strip()


def stream() -> list[str]:
    """Of the library, since a command's output has no pieces."""
    import llm as library

    model: Any = library.get_model(task["model"])
    return [piece for piece in model.prompt(task["question"], temperature=0, key="unused") if piece]


def usage() -> list[int]:
    ask(task["question"])
    (logged,) = json.loads(llm("logs", "list", "--json", "-n", "1"))
    return [logged["input_tokens"], logged["output_tokens"]]


report(
    version("llm"),
    {
        "chat": lambda: ask(task["question"]),
        "stream": stream,
        "usage": usage,
        "schema": lambda: json.loads(ask(task["describe"], "--schema", json.dumps(task["schema"]))),
        "error": lambda: raised(lambda: ask(task["question"], model=task["unknown"])),
    },
    absent={
        "models": "knows those of its own list",
        "tools": "cannot demand a call, and the small model makes none",
        "results": "follows a call",
        "embed": "in plugins of its own",
    },
)
