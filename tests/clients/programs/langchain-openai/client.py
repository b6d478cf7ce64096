"""LangChain over the OpenAI API."""

from importlib.metadata import version
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from report import raised, report, task

at: Any = {"base_url": f"{task['url']}/v1", "api_key": "unused", "max_retries": 0}
TOOL: Any = {"type": "function", "function": task["tool"]}
SCHEMA: Any = {"title": "person", "description": "A person.", **task["schema"]}


def chat(model: str = task["model"], **fields: Any) -> Any:
    return ChatOpenAI(model=model, temperature=0, max_tokens=60, **at, **fields)


def usage() -> list[int]:
    counts = [
        chunk.usage_metadata for chunk in chat(stream_usage=True).stream(task["question"]) if chunk.usage_metadata
    ]
    return [counts[-1]["input_tokens"], counts[-1]["output_tokens"]]


def call() -> Any:
    return chat().bind_tools([TOOL], tool_choice="required", parallel_tool_calls=False).invoke(task["weather"])


def tools() -> list[Any]:
    return [{"name": each["name"], "arguments": each["args"]} for each in call().tool_calls]


def results() -> str:
    called = call()
    output = ToolMessage(task["output"], tool_call_id=called.tool_calls[0]["id"])
    text: str = chat().invoke([HumanMessage(task["weather"]), called, output]).text
    return text


def embed() -> list[list[float]]:
    embeddings = OpenAIEmbeddings(model=task["embedder"], check_embedding_ctx_length=False, **at)
    return embeddings.embed_documents(task["sentences"])


report(
    version("langchain-openai"),
    {
        "chat": lambda: chat().invoke(task["question"]).text,
        "stream": lambda: [chunk.text for chunk in chat().stream(task["question"]) if chunk.text],
        "usage": usage,
        "tools": tools,
        "results": results,
        "schema": lambda: chat().with_structured_output(SCHEMA, method="json_schema").invoke(task["describe"]),
        "embed": embed,
        "error": lambda: raised(lambda: chat(task["unknown"]).invoke(task["question"])),
    },
    absent={"models": "lists none"},
)
