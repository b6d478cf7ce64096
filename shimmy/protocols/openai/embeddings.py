"""POST /v1/embeddings, and llama-server's own /embeddings, which also gives a vector for each token."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from starlette.requests import Request

from shimmy.core.errors import RequestError
from shimmy.core.events import Dropped, Embedded
from shimmy.core.request import (
    MAX_INPUTS,
    Dimensions,
    Embedding,
    ModelName,
    Norm,
    NumKept,
    Patience,
    Pooling,
    Priority,
    TokenId,
)
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.openai.answer import truncation_field, truncation_headers
from shimmy.protocols.openai.generation import new_id, token_truncation
from shimmy.server.inference import Inference
from shimmy.server.streaming import LongAnswer, until_disconnect
from shimmy.server.strictness import read
from shimmy.server.vectors import Encode, as_base64, as_floats, as_row, as_rows, collect

Inputs = str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)]

_encode = msgspec.json.encode


class CommonFields(msgspec.Struct, frozen=True, kw_only=True):
    """`pooling` is one of llama-server's --pooling, and `embd_normalize` its field; the rest as in completions, but
    that texts are cut at their ends."""

    model: ModelName
    pooling: Pooling | None = None
    embd_normalize: Norm | None = None
    priority: Priority | None = None
    timeout: Patience | None = None
    queue_timeout: Patience | None = None
    truncate_prompt_tokens: NumKept | None = None
    truncation_side: Literal["left", "right"] | None = None


class EmbeddingsRequest(CommonFields, frozen=True, kw_only=True):
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None


class NativeRequest(CommonFields, frozen=True, kw_only=True):
    """Where there is one model, it need not be named."""

    model: ModelName = ""
    input: Inputs | None = None
    content: Inputs | None = None


_decoder = Decoder(EmbeddingsRequest)
_native_decoder = Decoder(NativeRequest)


class Embeddings:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def create(self, request: Request) -> LongAnswer:
        body = await read(request, _decoder)
        if body.pooling == "none":
            raise RequestError("pooling: a vector for each token is what /embeddings gives", param="pooling")
        wanted = _embedding(request, body, body.model, body.input, "input", dimensions=body.dimensions)
        encode = as_base64 if body.encoding_format == "base64" else as_floats
        losses = _Losses(wanted)
        vectors, num_tokens = await self._collect(request, wanted, losses.noting(encode))
        entries = _entries(b'{"object":"embedding","index":%d,"embedding":', vectors)
        usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
        tail = _encode({"model": body.model, "usage": usage} | losses.field())
        return LongAnswer([b'{"object":"list","data":[', *entries, b"]," + tail[1:]], losses.headers())

    async def create_native(self, request: Request) -> LongAnswer:
        body = await read(request, _native_decoder)
        field, inputs = ("content", body.content) if body.input is None else ("input", body.input)
        if inputs is None:
            raise RequestError("input: this field is required", param="input")
        model = body.model or await self._inference.models.only_model()
        wanted = _embedding(request, body, model, inputs, field)
        losses = _Losses(wanted)
        encode = losses.noting(as_rows if body.pooling == "none" else as_row)
        vectors, _ = await self._collect(request, wanted, encode)
        return LongAnswer([b"[", *_entries(b'{"index":%d,"embedding":', vectors), b"]"], losses.headers())

    async def _collect(self, request: Request, wanted: Embedding, encode: Encode) -> tuple[list[bytes], int]:
        request.state.access.model = wanted.model
        work = collect(self._inference.embed(wanted), len(wanted.inputs), encode)
        return await until_disconnect(request.receive, work)


class _Losses:
    """What the inputs of one request lost."""

    def __init__(self, wanted: Embedding) -> None:
        self._what = wanted.truncation.what if wanted.truncation is not None else None
        self._dropped: dict[int, Dropped] = {}

    def noting(self, encode: Encode) -> Encode:
        def noted(result: Embedded) -> bytes:
            if self._what is not None and result.num_dropped:
                self._dropped[result.index] = Dropped(self._what, result.num_dropped)
            return encode(result)

        return noted

    def field(self) -> dict[str, Any]:
        return truncation_field(list(self._dropped.values()))

    def headers(self) -> list[tuple[bytes, bytes]]:
        return truncation_headers(self.field())


def _embedding(
    request: Request, body: CommonFields, model: str, inputs: Inputs, field: str, **fields: Any
) -> Embedding:
    is_alone = isinstance(inputs, str) or isinstance(inputs[0], int)
    return Embedding(
        id=new_id("embd"),
        model=model,
        inputs=_split(inputs, field),
        field=field if is_alone else f"{field}[*]",
        pooling=body.pooling,
        truncation=token_truncation(
            body.truncate_prompt_tokens, body.truncation_side or "right", is_said=body.truncation_side is not None
        ),
        norm=2 if body.embd_normalize is None else body.embd_normalize,
        priority=body.priority or 0,
        tenant=request.state.tenant,
        timeout_seconds=body.timeout,
        queue_seconds=body.queue_timeout,
        **fields,
    )


def _split(inputs: Inputs, field: str) -> list[str | list[int]]:
    """A string, strings, token ids, or lists of token ids; not a mixture of them."""
    if isinstance(inputs, str):
        return [inputs]
    kind = type(inputs[0])
    for number, each in enumerate(inputs):
        if type(each) is not kind:
            at = f"{field}[{number}]"
            raise RequestError(f"{at}: expected a {_NAMES[kind]}, as those before it", param=at)
    if kind is int:
        return [[each for each in inputs if isinstance(each, int)]]
    if len(inputs) > MAX_INPUTS:
        raise RequestError(f"{field}: {len(inputs)} inputs are more than {MAX_INPUTS}", param=field)
    return [each for each in inputs if not isinstance(each, int)]


_NAMES = {str: "string", int: "token id", list: "list of token ids"}


def _entries(opening: bytes, vectors: list[bytes]) -> list[bytes]:
    """`opening` takes the number of its vector."""
    return [b"%s%s%s}" % (b"," if number else b"", opening % number, each) for number, each in enumerate(vectors)]
