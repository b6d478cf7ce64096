"""The official SDK, the Responses API."""

import json
from typing import Any

import openai
from openai import OpenAI
from report import raised, report, task

client = OpenAI(base_url=f"{task['url']}/v1", api_key="unused", max_retries=0)
TOOL: Any = {"type": "function", "strict": True, **task["tool"]}
FORMAT: Any = {"format": {"type": "json_schema", "name": "person", "schema": task["schema"], "strict": True}}


def ask(given: Any = task["question"], **fields: Any) -> Any:
    fields = {"model": task["model"], "input": given, "temperature": 0, "max_output_tokens": 60} | fields
    return client.responses.create(**fields)


def stream() -> list[str]:
    return [event.delta for event in ask(stream=True) if event.type == "response.output_text.delta"]


def usage() -> list[int]:
    *_, last = ask(stream=True)
    return [last.response.usage.input_tokens, last.response.usage.output_tokens]


def call() -> Any:
    return ask(task["weather"], tools=[TOOL], tool_choice="required", parallel_tool_calls=False)


def tools() -> list[Any]:
    return [{"name": each.name, "arguments": json.loads(each.arguments)} for each in call().output]


def results() -> str:
    output = call().output
    given = [{"role": "user", "content": task["weather"]}, *output]
    given.append({"type": "function_call_output", "call_id": output[0].call_id, "output": task["output"]})
    text: str = ask(given, tools=[TOOL], tool_choice="none").output_text
    return text


report(
    openai.__version__,
    {
        "chat": lambda: ask().output_text,
        "stream": stream,
        "usage": usage,
        "tools": tools,
        "results": results,
        "schema": lambda: json.loads(ask(task["describe"], text=FORMAT).output_text),
        "error": lambda: raised(lambda: ask(model=task["unknown"])),
    },
    absent=dict.fromkeys(("models", "embed"), "as with chat completions"),
)
