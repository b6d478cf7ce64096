"""The command `llm` with its plugin for Ollama."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from report import raised, report, task

os.environ["LLM_USER_PATH"] = str(Path.cwd() / "llm")
os.environ["OLLAMA_HOST"] = task["url"]
CHAT, EMBEDDER = f"ollama/{task['model']}:latest", f"ollama/{task['embedder']}:latest"


class CommandError(Exception):
    """The command said so, and ended with 1."""


def llm(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "llm", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise CommandError(done.stderr.strip())
    return done.stdout


def models() -> list[str]:
    import llm as library

    found = [model.model_id for model in library.get_models()]
    return [name.removeprefix("ollama/") for name in found if name.startswith("ollama/")]


def ask(text: str, *flags: str, model: str = CHAT) -> str:
    limits = ("-o", "temperature", "0", "-o", "num_predict", "60")
    return llm("prompt", "-m", model, *limits, *flags, text).strip()


def stream() -> list[str]:
    """Of the library, since a command's output has no pieces."""
    import llm as library

    return [piece for piece in library.get_model(CHAT).prompt(task["question"], temperature=0) if piece]


def usage() -> list[int]:
    ask(task["question"])
    (logged,) = json.loads(llm("logs", "list", "--json", "-n", "1"))
    return [logged["input_tokens"], logged["output_tokens"]]


report(
    version("llm-ollama"),
    {
        "models": models,
        "chat": lambda: ask(task["question"]),
        "stream": stream,
        "usage": usage,
        "schema": lambda: json.loads(ask(task["describe"], "--schema", json.dumps(task["schema"]))),
        "embed": lambda: [json.loads(llm("embed", "-m", EMBEDDER, "-c", text)) for text in task["sentences"]],
        "error": lambda: raised(lambda: ask(task["question"], model=task["unknown"])),
    },
    absent={"tools": "cannot demand a call, and the small model makes none", "results": "follows a call"},
)
