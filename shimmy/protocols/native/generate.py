"""POST /api/generate in the form of the original Shimmy, which shares it with Ollama, and what a request means."""

import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Annotated, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError, ShimmyError
from shimmy.core.events import Event, TextDelta
from shimmy.core.request import (
    MAX_MESSAGES,
    Chat,
    Generation,
    MaxTokens,
    Message,
    ModelName,
    Probability,
    Sampling,
    Temperature,
    Text,
    TopK,
)
from shimmy.core.settings import Settings
from shimmy.core.unknown_fields import Decoder
from shimmy.server.inference import Inference
from shimmy.server.protocol import Endpoint, json_response
from shimmy.server.streaming import EventStream, observed, until_disconnect
from shimmy.server.strictness import read

DEFAULT_MAX_TOKENS = 256  # the original's (src/engine/mod.rs)
DONE = b"data: [DONE]\n\n"
# What only the one or only the other form has.
_OURS = frozenset({"messages", "temperature", "top_p", "top_k", "max_tokens"})
_OLLAMAS = frozenset(
    "options format keep_alive raw suffix template context images think logprobs top_logprobs truncate shift".split()
)


class ChatMessage(msgspec.Struct, frozen=True):
    role: Literal["system", "user", "assistant"]
    content: str


class GenerateRequest(msgspec.Struct, frozen=True):
    model: ModelName
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(max_length=MAX_MESSAGES)] | None = None
    system: str | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    top_k: TopK | None = None
    max_tokens: MaxTokens | None = None
    stream: bool | None = None


decoder = Decoder(GenerateRequest)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def is_native(content: bytes, accept: str) -> bool:
    """Whether a body has a field that Ollama has not, and none that only Ollama has, or the client takes server-sent
    events, which Ollama does not send."""
    if "text/event-stream" in accept.lower():
        return True
    try:
        fields = _fields_decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return not _OURS.isdisjoint(fields) and _OLLAMAS.isdisjoint(fields)


def generation_of(body: GenerateRequest, tenant: str) -> Generation:
    """What a request asks for. A prompt is taken as it is, messages go through the model's chat template. Raises
    `RequestError`."""
    if body.messages:
        system = [Message("system", body.system)] if body.system else []
        prompt: Chat | Text = Chat([*system, *(Message(each.role, each.content) for each in body.messages)])
    elif body.prompt:
        prompt = Text(body.prompt)
    else:
        raise RequestError("prompt: there is neither a prompt nor messages", param="prompt")
    return Generation(
        id=f"shimmy-{os.urandom(12).hex()}",
        model=body.model,
        prompt=prompt,
        sampling=Sampling.of(temperature=body.temperature, top_p=body.top_p, top_k=body.top_k),
        max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
        tenant=tenant,
    )


class Generates:
    def __init__(self, inference: Inference, settings: Settings, otherwise: Callable[[], Endpoint]) -> None:
        """`otherwise` finds the endpoint for requests of the other form."""
        self._inference = inference
        self._ping_seconds = settings.ping_seconds
        self._otherwise = otherwise

    async def create(self, request: Request) -> Response | EventStream:
        if not is_native(await request.body(), request.headers.get("accept", "")):
            answer: Response | EventStream = await self._otherwise()(request)
            return answer
        body = await read(request, decoder)
        generation = generation_of(body, request.state.tenant)
        whole = body.stream is False
        events = observed(request.scope, generation.model, self._inference.generate(generation, whole=whole))
        if not whole:
            return EventStream(_stream(events), _encode_error_event, self._ping_seconds)
        text = await until_disconnect(request.receive, _whole(events))
        return json_response({"response": text})


async def texts(batches: AsyncGenerator[list[Event], None]) -> AsyncGenerator[str, None]:
    """The text of each batch, which may be empty; thoughts and calls are no part of it."""
    async with aclosing(batches):
        async for events in batches:
            yield "".join(event.text for event in events if isinstance(event, TextDelta))


async def _whole(batches: AsyncGenerator[list[Event], None]) -> str:
    return "".join([text async for text in texts(batches)])


async def _stream(batches: AsyncGenerator[list[Event], None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(texts(batches)) as pieces:
        async for text in pieces:
            yield _event(text) if text else b""
    yield DONE


def _event(text: str) -> bytes:
    """The text as it is; every line of it needs the name of the field again."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return b"".join(b"data: %s\n" % line.encode() for line in lines) + b"\n"


def _encode_error_event(error: ShimmyError) -> bytes:
    return _event(f"[ERROR] {error.message}")
