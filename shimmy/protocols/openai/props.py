"""GET /props and /slots, by which llama-server's clients learn what they talk to."""

from starlette.requests import Request
from starlette.responses import Response

from shimmy import __version__
from shimmy.core.errors import Unavailable
from shimmy.server.inference import Inference
from shimmy.server.protocol import json_response


class Props:
    """Of the model that `?model=` names, or else of the only one."""

    def __init__(self, inference: Inference) -> None:
        self._models = inference.models

    async def get(self, request: Request) -> Response:
        """Loads the model, as how long its context is depends on the memory that there is for it."""
        name = await self._name(request)
        await self._models.preload(name)
        loaded = (await self._models.status(name)).loaded
        if loaded is None:
            raise Unavailable(f"the model {name!r} was unloaded meanwhile")
        model, header = await self._models.header(name)
        return json_response(
            {
                "default_generation_settings": {"n_ctx": loaded.context_length},
                "total_slots": loaded.num_sequences,
                "model_alias": model.id,
                "model_path": model.paths[0],
                "chat_template": header.get("tokenizer.chat_template") or "",
                "modalities": {"vision": False, "audio": False},
                "build_info": f"shimmy {__version__}",
                "is_sleeping": False,
            }
        )

    async def slots(self, request: Request) -> Response:
        """A sequence that runs has no number that anybody could know: as many as run are the first. Raises
        `Unavailable` where all run and the client wants to know that so."""
        name = await self._name(request)
        status = await self._models.status(name)
        loaded = status.loaded
        num_slots = loaded.num_sequences * status.num_workers if loaded is not None else 0
        num_running = await self._models.num_running(name)
        if loaded is not None and num_running >= num_slots and "fail_on_no_slot" in request.query_params:
            raise Unavailable("no slot is free")
        length = loaded.context_length if loaded is not None else 0
        slots = [{"id": id, "n_ctx": length, "is_processing": id < num_running} for id in range(num_slots)]
        return json_response(slots)

    async def _name(self, request: Request) -> str:
        name = request.query_params.get("model") or await self._models.only_model()
        request.state.access.model = name
        return name
