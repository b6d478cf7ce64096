"""POST /infill, as llama-server has it: what belongs between two texts. Its answers have llama-server's shape too."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.events import Event, Finished, TextDelta
from shimmy.core.request import File, Generation, Infill, ModelName
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.openai.answer import Tally
from shimmy.protocols.openai.constraint import constraint
from shimmy.protocols.openai.endpoint import Endpoint
from shimmy.protocols.openai.errors import encode_error_event
from shimmy.protocols.openai.generation import (
    common,
    new_id,
    refuse,
    token_limit,
)
from shimmy.protocols.openai.wire import CommonFields
from shimmy.server.protocol import json_response
from shimmy.server.streaming import EventStream, observed, until_disconnect
from shimmy.server.strictness import read

MAX_FILES = 256


class Extra(msgspec.Struct, frozen=True):
    text: str = ""
    filename: str = "tmp"


class InfillRequest(CommonFields, frozen=True, kw_only=True):
    """With an `n_predict` of 0 the prompt is computed and nothing is answered, which editors do ahead of time."""

    model: ModelName = ""
    input_prefix: str
    input_suffix: str
    input_extra: Annotated[list[Extra], Meta(max_length=MAX_FILES)] | None = None
    prompt: str | None = None


_decoder = Decoder(InfillRequest)


class Infills(Endpoint):
    async def create(self, request: Request) -> Response | EventStream:
        body = await read(request, _decoder)
        refuse({"n": body.n if body.n != 1 else None, "truncate_prompt_tokens": body.truncate_prompt_tokens})
        max_tokens = token_limit(body, least=0)
        model = body.model or await self._inference.models.only_model()
        generation = Generation(
            id=new_id("infill"),
            model=model,
            prompt=_prompt(body),
            max_tokens=max(1, max_tokens) if max_tokens is not None else None,
            constraint=constraint(body),
            **common(body, request.state.tenant),
        )
        events = observed(request.scope, model, self._inference.generate(generation, whole=not body.stream))
        answer = _Answer(model, is_silent=max_tokens == 0)
        if body.stream:
            return EventStream(answer.stream(events), encode_error_event, self._ping_seconds)
        content = await until_disconnect(request.receive, answer.whole(events))
        return json_response(content)


def _prompt(body: InfillRequest) -> Infill:
    extra = [File(file.filename, file.text) for file in body.input_extra or []]
    return Infill(body.input_prefix, body.input_suffix, body.prompt or "", extra, "input_suffix")


class _Answer:
    """One answer, whole or in pieces; `is_silent` leaves its text out."""

    def __init__(self, model: str, *, is_silent: bool) -> None:
        self._model = model
        self._is_silent = is_silent
        self._tally = Tally()

    async def whole(self, batches: AsyncGenerator[list[Event], None]) -> dict[str, Any]:
        texts: list[str] = []
        end: dict[str, Any] = {}
        async with aclosing(batches):
            async for events in batches:
                for event in events:
                    if isinstance(event, TextDelta):
                        texts.append(event.text)
                    elif isinstance(event, Finished):
                        end = self._end(event)
        return end | {"content": "" if self._is_silent else "".join(texts)}

    async def stream(self, batches: AsyncGenerator[list[Event], None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(batches):
            async for events in batches:
                yield b"".join(self._piece(event) for event in events)

    def _piece(self, event: Event) -> bytes:
        if isinstance(event, TextDelta) and event.text and not self._is_silent:
            return _event({"index": 0, "content": event.text, "stop": False})
        return _event(self._end(event)) if isinstance(event, Finished) else b""

    def _end(self, event: Finished) -> dict[str, Any]:
        self._tally.add(0, event)
        usage = event.usage
        return {
            "index": 0,
            "content": "",
            "stop": True,
            "model": self._model,
            "stop_type": "limit" if event.reason == "length" else "word" if event.stop is not None else "eos",
            "stopping_word": event.stop or "",
            "tokens_predicted": usage.completion_tokens,
            "tokens_evaluated": usage.prompt_tokens,
            "tokens_cached": usage.cached_tokens,
            "truncated": False,
            "timings": self._tally.timings(),
        }


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
