"""/api/models and what is under it: which there are, and loading and unloading one."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.durations import keep_alive_seconds
from shimmy.core.errors import ModelInUse
from shimmy.core.sizes import parameter_size
from shimmy.core.unknown_fields import Decoder
from shimmy.server.inference import Inference
from shimmy.server.protocol import json_list, json_response
from shimmy.server.streaming import LongAnswer
from shimmy.server.strictness import read


class LoadRequest(msgspec.Struct, frozen=True):
    """How long the model stays, which of several leave first, and how many processes it has; what is not said stays as
    it is. Who leaves first, and how many there are, is for administrators to say: a model that never leaves, or takes
    more than it needs, keeps others from being loaded."""

    keep_alive: str | float | None = None
    priority: Literal["low", "normal", "high"] | None = None
    pinned: bool | None = None
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] | None = None


_decoder = Decoder(LoadRequest)


class Models:
    def __init__(self, inference: Inference) -> None:
        self._models = inference.models

    async def list(self, request: Request) -> LongAnswer:
        await self._models.refresh()
        return await json_list(b'{"models":[', map(_entry, self._servable()), b"]}")

    async def discover(self, request: Request) -> LongAnswer:
        """What a scan finds can be used at once."""
        await self._models.refresh(max_age_seconds=0)
        found = self._servable()
        return await json_list(b'{"discovered":%d,"models":[' % len(found), map(_entry, found), b"]}")

    async def load(self, request: Request) -> Response:
        """Answers when the model is ready, with how many workers it has. One that is loaded is loaded anew, and answers
        until that has been tried; where the body says how it is to be kept, only if it is not loaded like that."""
        name = self._name(request)
        body = await read(request, _decoder) if await request.body() else LoadRequest()
        if any(each is not None for each in (body.priority, body.pinned, body.workers)):
            request.state.permit("admin")
        if body == LoadRequest():
            await self._models.load(name)
        else:
            await self._models.keep(
                name,
                keep_alive_seconds=keep_alive_seconds(body.keep_alive, "keep_alive"),
                priority=body.priority,
                pinned=body.pinned,
                num_workers=body.workers,
            )
        num_workers = (await self._models.status(name)).num_workers
        return json_response({"message": f"Model {name} is loaded", "status": "loaded", "workers": num_workers})

    async def unload(self, request: Request) -> Response:
        """Answers when its process is gone. One that is in use stays."""
        name = self._name(request)
        if not await self._models.unload(name):
            raise ModelInUse(f"the model {name!r} is in use", param="name")
        return json_response({"message": f"Model {name} is unloaded", "status": "unloaded"})

    async def status(self, request: Request) -> Response:
        name = self._name(request)
        status = await self._models.status(name)
        answer: dict[str, Any] = {"model": name, "status": status.state, "loaded": status.loaded is not None}
        if status.loaded is not None:
            answer["workers"] = status.num_workers
            answer["memory_bytes"] = self._models.taken_bytes(status.id)
            answer["gpu_memory_bytes"] = self._models.gpu_bytes(status.id)
            answer["layers"] = status.loaded.layers
        if status.state == "loading":
            answer["fraction"] = status.fraction
        if status.reason is not None:
            answer["reason"] = status.reason
        if status.gpu_failure is not None:
            answer["gpu_failure"] = status.gpu_failure
        if status.switch is not None:
            answer["switch"] = status.switch
        return json_response(answer)

    def _name(self, request: Request) -> str:
        name: str = request.path_params["name"]
        request.state.access.model = name
        return name

    def _servable(self) -> Sequence[Any]:
        return [model for model in self._models.catalog.models() if self._models.answers(model)]


def _entry(model: Any) -> dict[str, Any]:
    return {
        "name": model.id,
        "size_bytes": model.size_bytes,
        "model_type": model.facts.architecture if model.facts else None,
        "parameter_count": parameter_size(model.facts.num_parameters) if model.facts else None,
        "source": "registered" if model.source.startswith("--") else "discovered",
    }
