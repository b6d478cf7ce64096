"""What /api/generate and /api/chat do alike with a request before it becomes a `Generation`."""

import os
from typing import Any

import msgspec

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.raw_json import ABSENT, raw_text
from shimmy.core.request import Constraint, Reasoning, Sampling
from shimmy.protocols.ollama.wire import CommonFields, Options, Think

_SAMPLING = [name for name in Sampling.__struct_fields__ if name in Options.__struct_fields__]


def fields(body: CommonFields) -> dict[str, Any]:
    """Fields of a `Generation`. Raises `RequestError` naming what is wrong."""
    options = body.options or Options()
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs: logprobs must be true for them", param="top_logprobs")
    num_predict = options.num_predict
    return {
        "model": body.model,
        "sampling": _sampling(options),
        # Everything below one is no limit but the context's: Ollama's -1 and -2.
        "max_tokens": min(num_predict, 2**31 - 1) if num_predict is not None and num_predict > 0 else None,
        "stop": _stops(options),
        "constraint": constraint(body.format),
        "logprobs": (body.top_logprobs or 0) if body.logprobs else None,
    }


def reasoning(think: Think | None) -> Reasoning:
    """An effort is a "yes"."""
    if isinstance(think, str):
        return Reasoning(enabled=True, effort=think)
    return Reasoning(enabled=think)


def constraint(format: msgspec.Raw) -> Constraint | None:
    """`format` is "json" or a schema, and "" or null for neither."""
    raw = bytes(format)
    if raw in (bytes(ABSENT), b'""'):
        return None
    if raw == b'"json"':
        return Constraint("json_object", "", "format")
    if not raw.startswith(b"{"):
        raise RequestError('format: expected "json" or a JSON schema', param="format")
    return Constraint("json_schema", raw_text("format", format), "format")


def refuse_images(field: str, images: list[Any] | None) -> None:
    if images:
        raise Unsupported(f"{field}: images are not supported", param=field)


def new_id() -> str:
    return f"ollama-{os.urandom(12).hex()}"


def _sampling(options: Options) -> Sampling:
    given = {name: getattr(options, name) for name in _SAMPLING}
    return Sampling.of(**given, repetition_penalty=options.repeat_penalty)


def _stops(options: Options) -> list[str]:
    stop = [options.stop] if isinstance(options.stop, str) else options.stop or []
    return [string for string in stop if string]
