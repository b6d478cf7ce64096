"""POST /v1/explain: what a chat completion with the same body would compute, without generating anything."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.openai.chat import generation_of
from shimmy.protocols.openai.wire import ChatRequest
from shimmy.server.inference import Inference
from shimmy.server.protocol import json_response
from shimmy.server.streaming import until_disconnect
from shimmy.server.strictness import read

_decoder = Decoder(ChatRequest)


class Explain:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def create(self, request: Request) -> Response:
        body = await read(request, _decoder)
        asked = self._inference.explain(generation_of(body, request.state.tenant))
        explanation = await until_disconnect(request.receive, asked)
        answer = {"object": "explanation", "model": body.model, **msgspec.structs.asdict(explanation)}
        return json_response(answer)
