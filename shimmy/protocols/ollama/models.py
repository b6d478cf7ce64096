"""GET /api/tags and /api/ps, POST /api/show. Nothing in them is null that Ollama's clients take for a value."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from msgspec import json
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError
from shimmy.core.modelfile import Own, read_text
from shimmy.core.sizes import parameter_size
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.ollama.wire import ShowRequest
from shimmy.server.inference import Inference
from shimmy.server.protocol import json_list, json_response
from shimmy.server.streaming import LongAnswer
from shimmy.server.strictness import read

_decoder = Decoder(ShowRequest)
# Ollama's clients say "Forever" for what is more than twenty years away.
_NEVER = "2318-01-01T00:00:00Z"
_LAST_UNIX = 10_000_000_000.0
# As they stand in a Modelfile; the others are called as ours are.
_PARAMETERS = {"repetition_penalty": "repeat_penalty"}
_THINKING = ("enable_thinking", "reasoning_content", "<think>", "reasoning_effort", "thinking")
_FIM = (("prefix", "suffix"), ("fim_pre", "fim_suf"))


class Models:
    def __init__(self, inference: Inference) -> None:
        self._models = inference.models

    async def list(self, request: Request) -> LongAnswer:
        """Those that can be served, by each of their names."""
        await self._models.refresh()
        entries = (
            _entry(model, name) | {"modified_at": _time(model.modified_unix)}
            for name, model in self._models.catalog.named()
            if self._models.answers(model)
        )
        return await json_list(b'{"models":[', entries, b"]}")

    async def loaded(self, request: Request) -> Response:
        models = {model.id: model for model in self._models.catalog.models()}
        found = []
        for status in self._models.statuses():
            model, loaded = models.get(status.id), status.loaded
            if model is None or loaded is None:
                continue
            on_gpus = sum(self._models.gpu_bytes(status.id).values())
            until = status.expires_in_seconds
            found.append(
                _entry(model, model.id)
                | {
                    "size": max(self._models.taken_bytes(status.id) + on_gpus, loaded.model_bytes),
                    "expires_at": _NEVER if until is None else _time(min(time.time() + until, _LAST_UNIX)),
                    "size_vram": on_gpus,
                    "context_length": loaded.context_length,
                    "workers": status.num_workers,
                }
                | ({} if status.gpu_failure is None else {"gpu_failure": status.gpu_failure})
            )
        return json_response({"models": found})

    async def show(self, request: Request) -> Response:
        body = await read(request, _decoder)
        name = body.model or body.name
        if not name:
            raise RequestError("model: this field is required", param="model")
        model, header = await self._models.header(name)
        facts, own = model.facts, model.own
        licenses = await asyncio.to_thread(_licenses, own)
        parameters = _parameters(facts, own)
        shown: dict[str, Any] = {
            "license": "\n".join(licenses) or _text(header.get("general.license")),
            "modelfile": _modelfile(model.id, parameters, own, licenses),
            "parameters": "\n".join(parameters),
            "template": _text(header.get("tokenizer.chat_template")),
            "details": _details(facts),
            "model_info": _model_info(model, header),
            "capabilities": _capabilities(facts, header),
            "modified_at": _time(model.modified_unix),
        }
        if own.system:
            shown["system"] = own.system
        if own.messages:
            shown["messages"] = own.messages
        return json_response(shown)


def _entry(model: Any, name: str) -> dict[str, Any]:
    name = name if ":" in name else f"{name}:latest"
    return {
        "name": name,
        "model": name,
        "size": model.size_bytes,
        "digest": _digest(model),
        "details": _details(model.facts),
    }


def _digest(model: Any) -> str:
    """That of a file in an Ollama store; of others one of what tells this version of the file from all others."""
    blob = model.paths[0].rpartition("sha256-")[2] if model.paths else ""
    if len(blob) == 64 and set(blob) <= set("0123456789abcdef"):
        return blob
    from hashlib import sha256

    return sha256(repr((model.id, model.identity)).encode("utf-8", "surrogateescape")).hexdigest()


def _details(facts: Any) -> dict[str, Any]:
    family = (facts.architecture if facts else None) or ""
    details: dict[str, Any] = {
        "parent_model": "",
        "format": "gguf",
        "family": family,
        "families": [family] if family else [],
        "parameter_size": parameter_size(facts.num_parameters) if facts else "",
        "quantization_level": (facts.quantization if facts else None) or "",
    }
    if facts and facts.context_length is not None:
        details["context_length"] = facts.context_length
    if facts and facts.embedding_length is not None:
        details["embedding_length"] = facts.embedding_length
    return details


def _model_info(model: Any, header: dict[str, Any]) -> dict[str, Any]:
    """The header, in which arrays are null, as Ollama shows them; and what clients look for in any case."""
    facts = model.facts
    own: dict[str, Any] = {"general.basename": (facts.name if facts else None) or model.id}
    if facts:
        own["general.parameter_count"] = facts.num_parameters
    return own | header


def _capabilities(facts: Any, header: dict[str, Any]) -> list[str]:
    """What the file says; of tools and thoughts its template does."""
    found = list(facts.capabilities if facts else ())
    if "completion" not in found:
        return found
    template = _text(header.get("tokenizer.chat_template"))
    if "tools" in template:
        found.append("tools")
    if any(word in template for word in _THINKING):
        found.append("thinking")
    if any(all(f"tokenizer.ggml.{part}_token_id" in header for part in pair) for pair in _FIM):
        found.append("insert")
    return found


def _parameters(facts: Any, own: Own) -> list[str]:
    """The model's own defaults, each a line of a Modelfile."""
    sampling = (facts.sampling if facts else {}) | own.sampling
    lengths = {"num_ctx": own.context_length, "num_predict": own.max_tokens}
    named = {_PARAMETERS.get(name, name): value for name, value in sampling.items() if name != "samplers"} | lengths
    lines = [f"{name} {value}" for name, value in named.items() if value is not None]
    return [*lines, *(f"stop {json.encode(each).decode()}" for each in own.stop)]


def _modelfile(name: str, parameters: list[str], own: Own, licenses: list[str]) -> str:
    lines = [f"FROM {name}", *(f"PARAMETER {line}" for line in parameters)]
    if own.system:
        lines.append(f"SYSTEM {_quoted(own.system)}")
    lines += [f"MESSAGE {turn.role} {_quoted(turn.content)}" for turn in own.messages]
    lines += [f"LICENSE {_quoted(text)}" for text in licenses]
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    return f'"""{text}"""'


def _licenses(own: Own) -> list[str]:
    """Those that are still there."""
    texts = []
    for path in own.licenses:
        with suppress(OSError, ValueError):
            texts.append(read_text(path))
    return texts


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _time(unix: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(unix))
