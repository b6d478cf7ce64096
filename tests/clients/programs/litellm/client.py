"""litellm, as a client of the OpenAI API."""

import json
from importlib.metadata import version
from typing import Any

import litellm
from report import raised, report, task

PREFIX = "openai/"
AT: Any = {"api_base": f"{task['url']}/v1", "api_key": "unused"}
TOOL: Any = {"type": "function", "function": task["tool"]}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "person", "schema": task["schema"], "strict": True}}


def ask(text: str = task["question"], model: str = task["model"], **fields: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    fields = {"messages": messages, "temperature": 0, "max_tokens": 60, "num_retries": 0} | fields
    return litellm.completion(model=PREFIX + model, **AT, **fields)


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
    messages = [{"role": "user", "content": task["weather"]}, called.model_dump(), output]
    text: str = ask(messages=messages, tools=[TOOL], tool_choice="none").choices[0].message.content
    return text


def embed() -> list[list[float]]:
    answer = litellm.embedding(model=PREFIX + task["embedder"], input=task["sentences"], encoding_format="float", **AT)
    return [entry["embedding"] for entry in answer.data]


report(
    version("litellm"),
    {
        "chat": lambda: ask().choices[0].message.content,
        "stream": stream,
        "usage": usage,
        "tools": tools,
        "results": results,
        "schema": lambda: json.loads(ask(task["describe"], response_format=FORMAT).choices[0].message.content),
        "embed": embed,
        "error": lambda: raised(lambda: ask(model=task["unknown"])),
    },
    absent={"models": "lists none"},
)
