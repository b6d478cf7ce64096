"""litellm, as a client of Ollama's API."""

import json
from importlib.metadata import version
from typing import Any

import litellm
from report import raised, report, task

PREFIX = "ollama_chat/"
AT: Any = {"api_base": task["url"]}


def ask(text: str = task["question"], model: str = task["model"], **fields: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    fields = {"messages": messages, "temperature": 0, "max_tokens": 60, "num_retries": 0} | fields
    return litellm.completion(model=PREFIX + model, **AT, **fields)


def stream() -> list[str]:
    return [chunk.choices[0].delta.content for chunk in ask(stream=True) if chunk.choices[0].delta.content]


def usage() -> list[int]:
    *_, last = ask(stream=True, stream_options={"include_usage": True})
    return [last.usage.prompt_tokens, last.usage.completion_tokens]


def schema() -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": task["schema"]}}
    return json.loads(ask(task["describe"], response_format=form).choices[0].message.content)


def embed() -> list[list[float]]:
    answer = litellm.embedding(model=f"ollama/{task['embedder']}", input=task["sentences"], **AT)
    return [entry["embedding"] for entry in answer.data]


report(
    version("litellm"),
    {
        "chat": lambda: ask().choices[0].message.content,
        "stream": stream,
        "usage": usage,
        "schema": schema,
        "embed": embed,
        "error": lambda: raised(lambda: ask(model=task["unknown"])),
    },
    absent={
        "models": "lists none",
        "tools": "Ollama's API cannot demand a call, and the small model makes none",
        "results": "as with langchain-ollama",
    },
)
