"""POST /api/embed, and /api/embeddings, which was before it and does not scale its vector."""

import time
from typing import Any

import msgspec
from starlette.requests import Request

from shimmy.core.errors import RequestError
from shimmy.core.request import MAX_INPUTS, Embedding
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.ollama.answer import nanoseconds
from shimmy.protocols.ollama.generation import new_id
from shimmy.protocols.ollama.wire import EmbeddingsRequest, EmbedRequest
from shimmy.server import keep_alive
from shimmy.server.inference import Inference
from shimmy.server.streaming import LongAnswer, until_disconnect
from shimmy.server.strictness import read
from shimmy.server.vectors import as_floats, collect

_decoder = Decoder(EmbedRequest)
_legacy_decoder = Decoder(EmbeddingsRequest)
_encode = msgspec.json.encode


class Embeds:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def create(self, request: Request) -> LongAnswer:
        """What is too long is refused, `truncate` or not."""
        started_at = time.monotonic()
        body = await read(request, _decoder)
        inputs = [body.input] if isinstance(body.input, str) else body.input
        if len(inputs) > MAX_INPUTS:
            raise RequestError(f"input: {len(inputs)} inputs are more than {MAX_INPUTS}", param="input")
        field = "input" if isinstance(body.input, str) else "input[*]"
        given = {"inputs": inputs, "field": field, "dimensions": body.dimensions}
        vectors, num_tokens, load_seconds = await self._vectors(request, body, given)
        tail = _encode(
            {
                "total_duration": nanoseconds(time.monotonic() - started_at),
                "load_duration": nanoseconds(load_seconds),
                "prompt_eval_count": num_tokens,
            }
        )
        opening = b'{"model":%s,"embeddings":[' % _encode(body.model)
        return LongAnswer([opening, *_joined(vectors), b"]," + tail[1:]])

    async def create_legacy(self, request: Request) -> LongAnswer:
        body = await read(request, _legacy_decoder)
        given = {"inputs": [body.prompt] if body.prompt else [], "field": "prompt", "norm": -1}
        vectors, _, _ = await self._vectors(request, body, given)
        return LongAnswer([b'{"embedding":', vectors[0] if vectors else b"[]", b"}"])

    async def _vectors(
        self, request: Request, body: EmbedRequest | EmbeddingsRequest, given: dict[str, Any]
    ) -> tuple[list[bytes], int, float]:
        """The vectors, how many tokens the inputs had, and how long the model took to load. Without inputs nothing but
        that happens."""
        keep_alive.hear_field(body.keep_alive, "keep_alive")
        request.state.access.model = body.model

        async def work() -> tuple[list[bytes], int, float]:
            started_at = time.monotonic()
            await self._inference.models.preload(body.model)
            load_seconds = time.monotonic() - started_at
            vectors: list[bytes] = []
            num_tokens = 0
            if given["inputs"]:
                wanted = Embedding(id=new_id(), model=body.model, tenant=request.state.tenant, **given)
                batches = self._inference.embed(wanted)
                vectors, num_tokens = await collect(batches, len(wanted.inputs), as_floats)
            elif keep_alive.said() == 0:
                await self._inference.models.unload(body.model)
            return vectors, num_tokens, load_seconds

        return await until_disconnect(request.receive, work())


def _joined(vectors: list[bytes]) -> list[bytes]:
    return [b"," * bool(number) + each for number, each in enumerate(vectors)]
