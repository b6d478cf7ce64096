"""pydantic-ai: an agent that calls a tool, and answers that are classes."""

import asyncio
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, Field
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from report import raised, report, task

provider = OpenAIProvider(base_url=f"{task['url']}/v1", api_key="unused")


class Person(BaseModel, extra="forbid"):
    name: str = Field(max_length=20)
    age: int


class Weather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=20)


def agent(model: str = task["model"], **fields: Any) -> Any:
    settings: Any = {"temperature": 0, "max_tokens": 60}
    return Agent(OpenAIChatModel(model, provider=provider), model_settings=settings, **fields)


def stream() -> list[str]:
    async def pieces() -> list[str]:
        async with agent().run_stream(task["question"]) as answer:
            return [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]

    return asyncio.run(pieces())


def usage() -> list[int]:
    async def counts() -> list[int]:
        async with agent().run_stream(task["question"]) as answer:
            await answer.get_output()
            usage = answer.usage
            return [usage.input_tokens, usage.output_tokens]

    return asyncio.run(counts())


def tools() -> list[Any]:
    made = agent(output_type=ToolOutput(Weather, name="get_weather")).run_sync(task["weather"]).output
    return [{"name": "get_weather", "arguments": made.model_dump()}]


report(
    version("pydantic-ai-slim"),
    {
        "chat": lambda: agent().run_sync(task["question"]).output,
        "stream": stream,
        "usage": usage,
        "tools": tools,
        "schema": lambda: agent(output_type=NativeOutput(Person)).run_sync(task["describe"]).output.model_dump(),
        "error": lambda: raised(lambda: agent(task["unknown"]).run_sync(task["question"])),
    },
    absent={"models": "lists none", "results": "its agent leaves calling to the model", "embed": "not tried"},
)
