"""GET /v1/models and GET /v1/models/{id}: OpenAI's four fields, and what there is to know before choosing a model."""

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shimmy.server.inference import Inference
from shimmy.server.protocol import json_list, json_response
from shimmy.server.streaming import LongAnswer


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One model. `capabilities` is what it was made for: "completion", "embedding" or "rerank". `context_length` is
    what a request may use, `layers` how many layers each device has, `buffers` how many bytes of the weights each kind
    of memory, `adapters` the scales for requests that do not say; they are known once the model is loaded. Sizes in
    bytes."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["shimmy"] = "shimmy"
    status: Literal["valid", "invalid"]
    reason: str | None
    state: str
    source: str
    size: int
    quantization: str | None
    num_parameters: int | None
    capabilities: tuple[str, ...]
    context_length: int | None
    training_context_length: int | None
    template_source: str | None
    layers: dict[str, int] | None
    buffers: dict[str, int] | None
    adapters: dict[str, float] | None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Entry]


class Models:
    def __init__(self, inference: Inference) -> None:
        self._models = inference.models

    async def list(self, request: Request) -> LongAnswer:
        """By each of their names. Those that cannot be served are listed too, with the reason."""
        await self._models.refresh()
        return await json_list(b'{"object":"list","data":[', self._entries(self._models.catalog.named()), b"]}")

    async def get(self, request: Request) -> Response:
        await self._models.refresh()
        found = await self._models.find(request.path_params["id"])
        return json_response(next(self._entries([(found.id, found)])))

    def _entries(self, named: Iterable[tuple[str, Any]]) -> Iterator[Entry]:
        statuses = {status.id: status for status in self._models.statuses()}
        for name, model in named:
            facts = model.facts
            status = statuses.get(model.id)
            loaded = status.loaded if status else None
            template = facts.template_source if facts else None
            yield Entry(
                id=name,
                created=int(model.modified_unix),
                status="invalid" if model.invalid else "valid",
                reason=model.invalid or (status.reason if status else None),
                state=status.state if status else "unloaded",
                source=model.source,
                size=model.size_bytes,
                quantization=facts.quantization if facts else None,
                num_parameters=facts.num_parameters if facts else None,
                capabilities=facts.capabilities if facts else (),
                context_length=loaded.context_length if loaded else None,
                training_context_length=facts.context_length if facts else None,
                template_source=loaded.template_source or None if loaded else template,
                layers=loaded.layers if loaded else None,
                buffers=loaded.buffers if loaded else None,
                adapters=loaded.adapters if loaded else None,
            )
