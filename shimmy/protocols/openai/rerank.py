"""POST /v1/rerank: how well each of several texts answers a query, in the shape of Jina, Cohere and llama-server."""

import struct
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.events import Embedded
from shimmy.core.request import MAX_INPUTS, Embedding, ModelName, Patience, Priority
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.openai.generation import new_id
from shimmy.server.inference import Inference
from shimmy.server.protocol import json_response
from shimmy.server.streaming import until_disconnect
from shimmy.server.strictness import read
from shimmy.server.vectors import collect


class Document(msgspec.Struct, frozen=True):
    text: str


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Where there is one model, it need not be named, as with llama-server."""

    model: ModelName = ""
    query: str
    documents: Annotated[list[str | Document], Meta(min_length=1, max_length=MAX_INPUTS)]
    top_n: Annotated[int, Meta(ge=1)] | None = None
    return_documents: bool | None = None
    priority: Priority | None = None
    timeout: Patience | None = None
    queue_timeout: Patience | None = None


_decoder = Decoder(RerankRequest)


class Rerank:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def create(self, request: Request) -> Response:
        body = await read(request, _decoder)
        model = body.model or await self._inference.models.only_model()
        texts = [each if isinstance(each, str) else each.text for each in body.documents]
        wanted = Embedding(
            id=new_id("rank"),
            model=model,
            inputs=list(texts),
            field="documents[*]",
            query=body.query,
            priority=body.priority or 0,
            tenant=request.state.tenant,
            timeout_seconds=body.timeout,
            queue_seconds=body.queue_timeout,
        )
        request.state.access.model = model
        work = collect(self._inference.embed(wanted), len(texts), _score)
        encoded, num_tokens = await until_disconnect(request.receive, work)
        scores = [float(each) for each in encoded]
        answer = {
            "object": "list",
            "model": model,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            "results": [_result(index, scores[index], texts, body) for index in best(scores, body.top_n)],
        }
        return json_response(answer)


def best(scores: list[float], count: int | None) -> list[int]:
    """Numbers of the `count` best, the best first; of equals the first one."""
    return sorted(range(len(scores)), key=lambda index: -scores[index])[:count]


def _score(result: Embedded) -> bytes:
    return msgspec.json.encode(struct.unpack("<f", result.vectors)[0])


def _result(index: int, score: float, texts: list[str], body: RerankRequest) -> dict[str, Any]:
    document = {"document": {"text": texts[index]}} if body.return_documents else {}
    return {"index": index, "relevance_score": score} | document
