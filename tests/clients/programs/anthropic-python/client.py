"""The official SDK."""

import json
from typing import Any

import anthropic
from anthropic import Anthropic
from report import raised, report, task

client = Anthropic(base_url=task["url"], api_key="unused", max_retries=0)
TOOL: Any = {
    "name": task["tool"]["name"],
    "description": task["tool"]["description"],
    "input_schema": task["tool"]["parameters"],
}


def fields_of(text: str = task["question"], **fields: Any) -> Any:
    messages: Any = [{"role": "user", "content": text}]
    # The SDK no longer has a parameter for it.
    extra = {"temperature": 0}
    return {"model": task["model"], "messages": messages, "max_tokens": 60, "extra_body": extra} | fields


def ask(*text: str, **fields: Any) -> Any:
    return client.messages.create(**fields_of(*text, **fields))


def stream() -> list[str]:
    with client.messages.stream(**fields_of()) as events:
        return list(events.text_stream)


def usage() -> list[int]:
    with client.messages.stream(**fields_of()) as events:
        counts = events.get_final_message().usage
    return [counts.input_tokens + (counts.cache_read_input_tokens or 0), counts.output_tokens]


def call() -> Any:
    return ask(task["weather"], tools=[TOOL], tool_choice={"type": "any", "disable_parallel_tool_use": True})


def results() -> str:
    content = call().content
    output = {"type": "tool_result", "tool_use_id": content[0].id, "content": task["output"]}
    asked = {"role": "user", "content": task["weather"]}
    messages = [asked, {"role": "assistant", "content": content}, {"role": "user", "content": [output]}]
    text: str = ask(messages=messages, tools=[TOOL], tool_choice={"type": "none"}).content[0].text
    return text


def schema() -> Any:
    form = {"format": {"type": "json_schema", "schema": task["schema"]}}
    return json.loads(ask(task["describe"], output_config=form).content[0].text)


report(
    anthropic.__version__,
    {
        "models": lambda: [model.id for model in client.models.list()],
        "chat": lambda: ask().content[0].text,
        "stream": stream,
        "usage": usage,
        "tools": lambda: [{"name": block.name, "arguments": block.input} for block in call().content],
        "results": results,
        "schema": schema,
        "error": lambda: raised(lambda: ask(model=task["unknown"])),
    },
    absent={"embed": "Anthropic's API has none"},
)
