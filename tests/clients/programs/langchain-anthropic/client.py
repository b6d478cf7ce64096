"""LangChain over Anthropic's API."""

from importlib.metadata import version
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.messages import HumanMessage, ToolMessage
from report import raised, report, task

at: Any = {"base_url": task["url"], "api_key": "unused", "max_retries": 0}
TOOL: Any = {"type": "function", "function": task["tool"]}
SCHEMA: Any = {"title": "person", "description": "A person.", **task["schema"]}


def chat(model: str = task["model"], **fields: Any) -> Any:
    return ChatAnthropic(model=model, temperature=0, max_tokens=60, **at, **fields)


def usage() -> list[int]:
    whole = None
    for chunk in chat().stream(task["question"]):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    return [whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]]


def call() -> Any:
    return chat().bind_tools([TOOL], tool_choice="any", parallel_tool_calls=False).invoke(task["weather"])


def results() -> str:
    called = call()
    output = ToolMessage(task["output"], tool_call_id=called.tool_calls[0]["id"])
    text: str = chat().bind_tools([TOOL]).invoke([HumanMessage(task["weather"]), called, output]).text
    return text


report(
    version("langchain-anthropic"),
    {
        "chat": lambda: chat().invoke(task["question"]).text,
        "stream": lambda: [chunk.text for chunk in chat().stream(task["question"]) if chunk.text],
        "usage": usage,
        "tools": lambda: [{"name": each["name"], "arguments": each["args"]} for each in call().tool_calls],
        "results": results,
        "schema": lambda: chat().with_structured_output(SCHEMA, method="json_schema").invoke(task["describe"]),
        "error": lambda: raised(lambda: chat(task["unknown"]).invoke(task["question"])),
    },
    absent={"models": "lists none", "embed": "Anthropic's API has none"},
)
