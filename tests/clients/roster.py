"""The clients there are, and how one of them is run against a server."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clients import environment
from tests.clients.task import AGENT_CHECKS, CHECKS, TASK

PROGRAMS = Path(__file__).parent / "programs"
LIMIT_SECONDS = 600


@dataclass(frozen=True)
class Client:
    """`error` is what it calls the error for a model that does not exist. `script` is in programs/`name`, unless
    `folder` says where; without a lock file there, it is run by the interpreter of the tests. An agent has a prompt of
    its own: nobody can say what the small model answers. `is_everyday` is for `make test`."""

    name: str
    protocol: str
    error: str
    folder: str = ""
    script: str = "client.py"
    is_agent: bool = False
    is_everyday: bool = False

    @property
    def place(self) -> Path:
        return PROGRAMS / (self.folder or self.name)


CHAT, RESPONSES, MESSAGES, OLLAMA = "OpenAI chat", "OpenAI Responses", "Anthropic", "Ollama"

CLIENTS = [
    Client("openai (Python)", CHAT, "NotFoundError", "openai-python", is_everyday=True),
    Client("openai (JS)", CHAT, "NotFoundError", "openai-js", "client.mjs"),
    Client("langchain-openai", CHAT, "OpenAIModelNotFoundError"),
    Client("llama-index-llms-openai-like", CHAT, "NotFoundError", "llama-index-openai-like"),
    Client("litellm", CHAT, "NotFoundError"),
    Client("instructor", CHAT, "InstructorRetryException"),
    Client("pydantic-ai", CHAT, "ModelNotFoundError"),
    Client("llm", CHAT, "CommandError"),
    Client("vercel-ai", CHAT, "APICallError", script="client.mjs"),
    Client("opencode", CHAT, "APIError", is_agent=True),
    Client("curl", CHAT, "model_not_found"),
    Client("openai (Python), responses", RESPONSES, "NotFoundError", "openai-python", "responses.py"),
    Client("openai (JS), responses", RESPONSES, "NotFoundError", "openai-js", "responses.mjs"),
    Client("codex", RESPONSES, "turn.failed", is_agent=True),
    Client("anthropic (Python)", MESSAGES, "NotFoundError", "anthropic-python"),
    Client("anthropic (JS)", MESSAGES, "NotFoundError", "anthropic-js", "client.mjs"),
    Client("langchain-anthropic", MESSAGES, "AnthropicModelNotFoundError"),
    Client("claude-code", MESSAGES, "is_error", is_agent=True),
    Client("ollama (Python)", OLLAMA, "ResponseError", "ollama-python"),
    Client("ollama (JS)", OLLAMA, "ResponseError", "ollama-js", "client.mjs"),
    Client("langchain-ollama", OLLAMA, "ResponseError"),
    Client("llama-index-llms-ollama", OLLAMA, "ResponseError", "llama-index-ollama"),
    Client("litellm, ollama_chat", OLLAMA, "NotFoundError", "litellm", "with_ollama.py"),
    Client("llm-ollama", OLLAMA, "CommandError"),
    Client("ws", "WebSocket", "Error", script="client.mjs"),
    Client("grpcio", "gRPC", "NOT_FOUND"),
]


def run(client: Client, url: str, folder: Path) -> dict[str, Any]:
    """What the client gave, feature by feature: `version`, `features`, `absent`. Raises environment.Unreachable."""
    script = shutil.copy(client.place / client.script, folder / f"script{Path(client.script).suffix}")
    (folder / "task.json").write_text(json.dumps(TASK | {"url": url}))
    # A home of its own, and none of the variables by which clients find keys and servers.
    clean = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(folder),
        "LANG": "C.UTF-8",
    }
    done = subprocess.run(
        [*_interpreter(client, folder), script],
        cwd=folder,
        env=clean,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    if done.returncode != 0 or not done.stdout:
        raise RuntimeError(f"{client.name} ended with {done.returncode}: {done.stderr[-3000:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def _interpreter(client: Client, folder: Path) -> list[str]:
    """The command before the script, with what the script imports beside it."""
    for each in PROGRAMS.glob("report.*"):
        shutil.copy(each, folder)
    if (client.place / "package-lock.json").exists():
        (folder / "node_modules").symlink_to(environment.modules_of(client.place))
    if client.script.endswith(".mjs"):
        return ["node"]
    is_own = (client.place / "requirements.txt").exists()
    return [str(environment.python_of(client.place) if is_own else sys.executable)]


def failures(client: Client, said: dict[str, Any]) -> dict[str, str]:
    """What is not as it must be, by feature; a feature of which the script says nothing is one of them."""
    found = {}
    for name, check in (CHECKS | AGENT_CHECKS if client.is_agent else CHECKS).items():
        outcome = said["features"].get(name)
        if outcome is None:
            if name not in said["absent"]:
                found[name] = "was not tried"
        elif "raised" in outcome:
            found[name] = outcome["raised"]
        elif not _passes(check, outcome["gave"]):
            found[name] = f"gave {json.dumps(outcome['gave'])[:500]}"
        elif name == "error" and client.error != outcome["gave"]["class"]:
            found[name] = f"is a {outcome['gave']['class']}"
    return found


def _passes(check: Any, gave: Any) -> bool:
    try:
        return bool(check(gave))
    except (TypeError, ValueError, KeyError, LookupError, AttributeError):
        return False
