"""curl, with and without HTTP/2, as somebody types it."""

import json
import subprocess
from typing import Any

from report import report, task


def curl(path: str, body: Any = None, *flags: str) -> str:
    data = [] if body is None else ["--json", json.dumps(body)]
    command = ["curl", "--silent", "--show-error", "--max-time", "60", *flags, *data, task["url"] + path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def body_of(text: str = task["question"], **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": task["model"], "messages": messages, "temperature": 0, "max_tokens": 60} | fields


def ask(*text: str, **fields: Any) -> Any:
    return json.loads(curl("/v1/chat/completions", body_of(*text, **fields)))


def chunks(**fields: Any) -> list[Any]:
    """Over HTTP/2 from the first byte on."""
    lines = curl(
        "/v1/chat/completions", body_of(stream=True, **fields), "--no-buffer", "--http2-prior-knowledge"
    ).splitlines()
    data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    return [json.loads(each) for each in data]


def usage() -> list[int]:
    last = chunks(stream_options={"include_usage": True})[-1]["usage"]
    return [last["prompt_tokens"], last["completion_tokens"]]


def message() -> Any:
    tool = {"type": "function", "function": task["tool"]}
    answer = ask(task["weather"], tools=[tool], tool_choice="required", parallel_tool_calls=False)
    return answer["choices"][0]["message"]


def tools() -> list[Any]:
    functions = [call["function"] for call in message()["tool_calls"]]
    return [{"name": each["name"], "arguments": json.loads(each["arguments"])} for each in functions]


def results() -> str:
    called = message()
    output = {"role": "tool", "tool_call_id": called["tool_calls"][0]["id"], "content": task["output"]}
    text: str = ask(messages=[{"role": "user", "content": task["weather"]}, called, output])["choices"][0]["message"][
        "content"
    ]
    return text


def schema() -> Any:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": task["schema"]}}
    return json.loads(ask(task["describe"], response_format=form)["choices"][0]["message"]["content"])


def error() -> Any:
    said = curl("/v1/chat/completions", body_of(model=task["unknown"]), "--write-out", "\n%{http_code}")
    body, _, status = said.rpartition("\n")
    return {"class": json.loads(body)["error"]["code"], "status": int(status), "message": body}


report(
    curl("/", None, "--version").split()[1],
    {
        "models": lambda: [model["id"] for model in json.loads(curl("/v1/models"))["data"]],
        "chat": lambda: ask()["choices"][0]["message"]["content"],
        "stream": lambda: [each["choices"][0]["delta"].get("content") or "" for each in chunks()],
        "usage": usage,
        "tools": tools,
        "results": results,
        "schema": schema,
        "embed": lambda: [
            entry["embedding"]
            for entry in json.loads(curl("/v1/embeddings", {"model": task["embedder"], "input": task["sentences"]}))[
                "data"
            ]
        ],
        "error": error,
    },
    absent={},
)
