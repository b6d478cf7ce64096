"""LlamaIndex over Ollama's API."""

from importlib.metadata import version
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel
from report import raised, report, task


class Person(BaseModel, extra="forbid"):
    name: str
    age: int


def llm(model: str = task["model"]) -> Any:
    # Without a context_window it asks the server for the model's, which it then demands of each answer.
    return Ollama(model=model, base_url=task["url"], temperature=0, additional_kwargs={"num_predict": 60})


def user(text: str = task["question"]) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def usage() -> list[int]:
    *_, last = llm().stream_chat(user())
    return [last.raw["prompt_eval_count"], last.raw["eval_count"]]


def embed() -> list[list[float]]:
    embedding = OllamaEmbedding(model_name=task["embedder"], base_url=task["url"])
    return embedding.get_text_embedding_batch(task["sentences"])


report(
    version("llama-index-llms-ollama"),
    {
        "chat": lambda: llm().chat(user()).message.content,
        "stream": lambda: [part.delta for part in llm().stream_chat(user()) if part.delta],
        "usage": usage,
        "schema": lambda: llm().as_structured_llm(Person).chat(user(task["describe"])).raw.model_dump(),
        "embed": embed,
        "error": lambda: raised(lambda: llm(task["unknown"]).chat(user())),
    },
    absent={
        "models": "lists none",
        "tools": "Ollama's API cannot demand a call, and the small model makes none",
        "results": "as with langchain-ollama, which uses the same package",
    },
)
