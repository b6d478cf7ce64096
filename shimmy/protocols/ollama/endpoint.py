"""What /api/generate and /api/chat do with their generations: run them, answer whole or in lines, load and unload."""

from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import ModelInUse
from shimmy.core.request import Generation
from shimmy.core.settings import Settings
from shimmy.protocols.ollama.answer import Answer, Batches, Shape
from shimmy.protocols.ollama.errors import encode_error_line
from shimmy.protocols.ollama.wire import CommonFields
from shimmy.server import keep_alive
from shimmy.server.inference import Inference
from shimmy.server.streaming import EventStream, LineStream, observed, until_disconnect


class Endpoint:
    def __init__(self, inference: Inference, settings: Settings, shape: Shape) -> None:
        self._inference = inference
        self._ping_seconds = settings.ping_seconds
        self._shape = shape

    async def answer(
        self, request: Request, body: CommonFields, generation: Generation | None
    ) -> Response | EventStream:
        """Without a generation the model is loaded, or with a `keep_alive` of 0 unloaded."""
        keep_alive.hear_field(body.keep_alive, "keep_alive")
        answer = Answer(body.model, self._shape)
        if generation is None:
            request.state.access.model = body.model
            leaves = keep_alive.said() == 0
            work = self._unload(body.model) if leaves else self._inference.models.preload(body.model)
            await until_disconnect(request.receive, work)
            return _json(answer.only("unload" if leaves else "load"))
        whole = body.stream is False
        events: Batches = observed(request.scope, body.model, self._inference.generate(generation, whole=whole))
        if not whole:
            return LineStream(answer.lines(events), encode_error_line, self._ping_seconds)
        return _json(await until_disconnect(request.receive, answer.whole(events)))

    async def _unload(self, model: str) -> None:
        if not await self._inference.models.unload(model):
            raise ModelInUse(f"the model {model!r} is in use", param="model")


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
