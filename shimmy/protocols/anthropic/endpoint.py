"""POST /v1/messages and POST /v1/messages/count_tokens."""

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.settings import Settings
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.anthropic.answer import collect
from shimmy.protocols.anthropic.errors import encode_error_event
from shimmy.protocols.anthropic.generation import chat, generation
from shimmy.protocols.anthropic.stream import PING, MessageEncoder, stream
from shimmy.protocols.anthropic.wire import CountRequest, MessagesRequest
from shimmy.server.inference import Inference
from shimmy.server.protocol import json_response
from shimmy.server.streaming import EventStream, observed, until_disconnect
from shimmy.server.strictness import read

_messages = Decoder(MessagesRequest)
_count = Decoder(CountRequest)


class Messages:
    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._ping_seconds = settings.ping_seconds

    async def create(self, request: Request) -> Response | EventStream:
        body = await read(request, _messages)
        asked = generation(body, request.state.tenant)
        hides_thoughts = bool(body.thinking and body.thinking.display == "omitted")
        events = observed(request.scope, body.model, self._inference.generate(asked, whole=not body.stream))
        if body.stream:
            encoder = MessageEncoder(asked.id, body.model, body.max_tokens, hides_thoughts)
            encode_error = partial(encode_error_event, request_id=request.state.access.id)
            return EventStream(stream(events, encoder), encode_error, self._ping_seconds, ping=PING)
        whole = collect(events, asked.id, body.model, body.max_tokens, hides_thoughts)
        return json_response(await until_disconnect(request.receive, whole))

    async def count_tokens(self, request: Request) -> Response:
        """Of the prompt as it would be rendered, tools included."""
        body = await read(request, _count)
        counted = self._inference.count_tokens(body.model, chat(body), request.state.tenant)
        return json_response({"input_tokens": await until_disconnect(request.receive, counted)})
