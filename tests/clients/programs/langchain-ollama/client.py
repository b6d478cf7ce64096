"""LangChain over Ollama's API."""

from importlib.metadata import version
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama, OllamaEmbeddings
from report import raised, report, task

TOOL: Any = {"type": "function", "function": task["tool"]}
SCHEMA: Any = {"title": "person", "description": "A person.", **task["schema"]}


def chat(model: str = task["model"], **fields: Any) -> Any:
    return ChatOllama(model=model, base_url=task["url"], temperature=0, num_predict=60, **fields)


def usage() -> list[int]:
    counts = [chunk.usage_metadata for chunk in chat().stream(task["question"]) if chunk.usage_metadata]
    return [counts[-1]["input_tokens"], counts[-1]["output_tokens"]]


def results() -> str:
    called = AIMessage("", tool_calls=[{"name": "get_weather", "args": {"city": "Paris"}, "id": "1"}])
    messages = [HumanMessage(task["weather"]), called, ToolMessage(task["output"], tool_call_id="1")]
    text: str = chat().bind_tools([TOOL]).invoke(messages).text
    return text


report(
    version("langchain-ollama"),
    {
        # It looks for the model among those that are listed, and refuses one that is not there.
        "models": lambda: [chat(validate_model_on_init=True).model],
        "chat": lambda: chat().invoke(task["question"]).text,
        "stream": lambda: [chunk.text for chunk in chat().stream(task["question"]) if chunk.text],
        "usage": usage,
        "results": results,
        "schema": lambda: chat().with_structured_output(SCHEMA, method="json_schema").invoke(task["describe"]),
        "embed": lambda: OllamaEmbeddings(model=task["embedder"], base_url=task["url"]).embed_documents(
            task["sentences"]
        ),
        "error": lambda: raised(lambda: chat(task["unknown"]).invoke(task["question"])),
    },
    absent={"tools": "Ollama's API cannot demand a call, and the small model makes none"},
)
