"""instructor: answers as classes, by tools and by schemas."""

from importlib.metadata import version
from typing import Any

import instructor
from instructor.core import InstructorRetryException
from openai import OpenAI
from pydantic import BaseModel, Field
from report import report, task

at: Any = {"base_url": f"{task['url']}/v1", "api_key": "unused", "max_retries": 0}


class Person(BaseModel, extra="forbid"):
    name: str = Field(max_length=20)
    age: int


class GetWeather(BaseModel):
    """The weather in a city."""

    city: str = Field(max_length=20)


def ask(mode: Any, form: Any, text: str, model: str = task["model"]) -> Any:
    client = instructor.from_openai(OpenAI(**at), mode=mode)
    messages: Any = [{"role": "user", "content": text}]
    fields: Any = {"temperature": 0, "max_tokens": 60, "max_retries": 0}
    return client.chat.completions.create(model=model, response_model=form, messages=messages, **fields)


def tools() -> list[Any]:
    made = ask(instructor.Mode.TOOLS, GetWeather, task["weather"])
    return [{"name": "get_weather", "arguments": made.model_dump()}]


def error() -> Any:
    try:
        return ask(instructor.Mode.TOOLS, Person, task["describe"], task["unknown"])
    except InstructorRetryException as error:
        return {"class": type(error).__name__, "status": None, "message": str(error)}


plain = "answers are objects here"
report(
    version("instructor"),
    {
        "tools": tools,
        "schema": lambda: ask(instructor.Mode.JSON_SCHEMA, Person, task["describe"]).model_dump(),
        "error": error,
    },
    absent=dict.fromkeys(("chat", "stream", "usage", "results"), plain)
    | dict.fromkeys(("models", "embed"), "has none"),
)
