"""POST /api/generate."""

from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import Chat, Generation, Infill, Message, Prompt, Text
from shimmy.core.settings import Settings
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.ollama.answer import generate_shape
from shimmy.protocols.ollama.endpoint import Endpoint
from shimmy.protocols.ollama.generation import fields, new_id, reasoning, refuse_images
from shimmy.protocols.ollama.wire import GenerateRequest
from shimmy.server.inference import Inference
from shimmy.server.streaming import EventStream
from shimmy.server.strictness import read

_decoder = Decoder(GenerateRequest)


class Generates(Endpoint):
    def __init__(self, inference: Inference, settings: Settings) -> None:
        super().__init__(inference, settings, generate_shape)

    async def create(self, request: Request) -> Response | EventStream:
        body = await read(request, _decoder)
        refuse_images("images", body.images)
        if body.template:
            raise Unsupported("template: the model's own is used; for a prompt as it is, set raw", param="template")
        if body.context:
            raise Unsupported("context: not supported; send the messages to /api/chat", param="context")
        if not (body.prompt or body.suffix):
            return await self.answer(request, body, None)
        generation = Generation(
            id=new_id(), prompt=await self._prompt(body), tenant=request.state.tenant, **fields(body)
        )
        return await self.answer(request, body, generation)

    async def _prompt(self, body: GenerateRequest) -> Prompt:
        prompt = body.prompt or ""
        if body.suffix:
            if body.raw:
                raise RequestError("suffix: raw prompts have none", param="suffix")
            return Infill(prompt, body.suffix)
        if body.raw:
            return Text(prompt)
        own = await self._inference.models.own(body.model)
        system = body.system or own.system
        if not (system or await self._inference.models.has_chat_template(body.model)):
            return Text(prompt)
        began = [Message("system", system)] if system else []
        began += [Message(turn.role, turn.content) for turn in own.messages]
        return Chat([*began, Message("user", prompt)], reasoning=reasoning(body.think))
