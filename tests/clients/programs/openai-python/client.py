"""The official SDK, chat completions."""

import json
from typing import Any

import openai
from openai import OpenAI
from report import raised, report, task

client = OpenAI(base_url=f"{task['url']}/v1", api_key="unused", max_retries=0)
TOOL: Any = {"type": "function", "function": task["tool"]}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": task["schema"], "strict": True}}


def ask(text: str = task["question"], **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    fields = {"model": task["model"], "messages": messages, "temperature": 0, "max_tokens": 60} | fields
    return client.chat.completions.create(**fields)


def models() -> list[str]:
    return [model.id for model in client.models.list()]


def stream() -> list[str]:
    return [chunk.choices[0].delta.content for chunk in ask(stream=True) if chunk.choices[0].delta.content]


def usage() -> list[int]:
    *_, last = ask(stream=True, stream_options={"include_usage": True})
    return [last.usage.prompt_tokens, last.usage.completion_tokens]


def call() -> Any:
    return ask(task["weather"], tools=[TOOL], tool_choice="required", parallel_tool_calls=False).choices[0].message


def tools() -> list[Any]:
    calls = call().tool_calls
    return [{"name": each.function.name, "arguments": json.loads(each.function.arguments)} for each in calls]


def results() -> str:
    called = call()
    output = {"role": "tool", "tool_call_id": called.tool_calls[0].id, "content": task["output"]}
    messages = [{"role": "user", "content": task["weather"]}, called, output]
    text: str = ask(messages=messages, tools=[TOOL], tool_choice="none").choices[0].message.content
    return text


def embed() -> list[list[float]]:
    answer = client.embeddings.create(model=task["embedder"], input=task["sentences"])
    return [entry.embedding for entry in answer.data]


report(
    openai.__version__,
    {
        "models": models,
        "chat": lambda: ask().choices[0].message.content,
        "stream": stream,
        "usage": usage,
        "tools": tools,
        "results": results,
        "schema": lambda: json.loads(ask(task["describe"], response_format=FORMAT).choices[0].message.content),
        "embed": embed,
        "error": lambda: raised(lambda: ask(model=task["unknown"])),
    },
    absent={},
)
