"""Ollama's own package."""

import json
from importlib.metadata import version
from typing import Any

from ollama import Client
from report import raised, report, task

client = Client(host=task["url"])
TOOL: Any = {"type": "function", "function": task["tool"]}


def ask(text: str = task["question"], **fields: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    options = {"temperature": 0, "num_predict": 60}
    return client.chat(**{"model": task["model"], "messages": messages, "options": options} | fields)


def usage() -> list[int]:
    *_, last = ask(stream=True)
    return [last.prompt_eval_count, last.eval_count]


def results() -> str:
    called = {
        "role": "assistant",
        "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}],
    }
    output = {"role": "tool", "tool_name": "get_weather", "content": task["output"]}
    messages = [{"role": "user", "content": task["weather"]}, called, output]
    text: str = ask(messages=messages, tools=[TOOL]).message.content
    return text


def embed() -> list[list[float]]:
    return [list(vector) for vector in client.embed(model=task["embedder"], input=task["sentences"]).embeddings]


def models() -> list[str]:
    """Each must be one that can be shown."""
    found = [model.model or "" for model in client.list().models]
    assert all((client.show(name).modelinfo or {}).get("general.architecture") for name in found)
    return found


report(
    version("ollama"),
    {
        "models": models,
        "chat": lambda: ask().message.content,
        "stream": lambda: [part.message.content for part in ask(stream=True) if part.message.content],
        "usage": usage,
        "results": results,
        "schema": lambda: json.loads(ask(task["describe"], format=task["schema"]).message.content),
        "embed": embed,
        "error": lambda: raised(lambda: ask(model=task["unknown"])),
    },
    absent={"tools": "Ollama's API cannot demand a call, and the small model makes none"},
)
