"""LlamaIndex over the OpenAI API."""

from importlib.metadata import version
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel
from report import raised, report, task


class Person(BaseModel, extra="forbid"):
    name: str
    age: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    output: str = task["output"]
    return output


def llm(model: str = task["model"], **fields: Any) -> Any:
    kinds = {"is_chat_model": True, "is_function_calling_model": True, "should_use_structured_outputs": True}
    at = {"api_base": f"{task['url']}/v1", "api_key": "unused", "max_retries": 0, "context_window": 2048}
    return OpenAILike(**{"model": model, "temperature": 0, "max_tokens": 60} | kinds | at | fields)


def user(text: str = task["question"]) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def call() -> Any:
    return llm().chat_with_tools([FunctionTool.from_defaults(get_weather)], task["weather"], tool_required=True)


def tools() -> list[Any]:
    calls = llm().get_tool_calls_from_response(call())
    return [{"name": each.tool_name, "arguments": each.tool_kwargs} for each in calls]


def results() -> str:
    called = call()
    (first, *_) = llm().get_tool_calls_from_response(called)
    output = ChatMessage(role="tool", content=task["output"], additional_kwargs={"tool_call_id": first.tool_id})
    text: str = llm().chat([*user(task["weather"]), called.message, output]).message.content
    return text


def usage() -> list[int]:
    stream = llm(additional_kwargs={"stream_options": {"include_usage": True}}).stream_chat(user())
    (*_, last) = (part.raw.usage for part in stream if part.raw.usage)
    return [last.prompt_tokens, last.completion_tokens]


report(
    version("llama-index-llms-openai-like"),
    {
        "chat": lambda: llm().chat(user()).message.content,
        "stream": lambda: [part.delta for part in llm().stream_chat(user()) if part.delta],
        "usage": usage,
        "tools": tools,
        "results": results,
        "schema": lambda: llm().as_structured_llm(Person).chat(user(task["describe"])).raw.model_dump(),
        "error": lambda: raised(lambda: llm(task["unknown"]).chat(user())),
    },
    absent={"models": "lists none", "embed": "in another package of its own"},
)
