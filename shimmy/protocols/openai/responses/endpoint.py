"""POST /v1/responses, whole or as server-sent events, and what there is to say of responses that were."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import NotFound, RequestError, ShimmyError
from shimmy.core.events import Event
from shimmy.core.settings import Settings
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.openai.generation import new_id
from shimmy.protocols.openai.responses.output import Output, Told
from shimmy.protocols.openai.responses.request import chat_of, generation, in_our_words
from shimmy.protocols.openai.responses.tools import left_out
from shimmy.protocols.openai.responses.wire import ResponsesRequest
from shimmy.server.inference import Inference
from shimmy.server.protocol import json_response
from shimmy.server.streaming import EventStream, observed, until_disconnect
from shimmy.server.strictness import note, read

Batches = AsyncGenerator[list[Event], None]

_decoder = Decoder(ResponsesRequest)


class Responses:
    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._ping_seconds = settings.ping_seconds

    async def create(self, request: Request) -> Response | EventStream:
        body = await read(request, _decoder)
        note(request, left_out(body))
        id = new_id("resp").replace("-", "_")
        wanted = generation(body, id, request.state.tenant)
        events = self._inference.generate(wanted, whole=not body.stream)
        batches = observed(request.scope, body.model, _in_our_words(events, body))
        output = Output(body, id)
        if body.stream:
            encoder = Encoder(output)
            return EventStream(encoder.stream(batches), encoder.fail, self._ping_seconds, output.headers)
        await until_disconnect(request.receive, _collect(batches, output))
        headers = {name.decode(): value.decode() for name, value in output.headers()}
        return Response(msgspec.json.encode(output.snapshot()), headers=headers, media_type="application/json")

    async def count_input_tokens(self, request: Request) -> Response:
        body = await read(request, _decoder)
        note(request, left_out(body))
        count = self._inference.count_tokens(body.model, chat_of(body), request.state.tenant)
        try:
            counted = await until_disconnect(request.receive, count)
        except RequestError as error:
            raise in_our_words(error, body) from None
        return json_response({"object": "response.input_tokens", "input_tokens": counted})

    async def refuse(self, request: Request) -> Response:
        """Whatever is asked of a response by its id."""
        id = str(request.path_params["id"])[:80]
        raise NotFound(f"there is no response {id!r}: responses are not stored", param="response_id")


class Encoder:
    """Numbers and encodes what happens to one response."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._number = 0

    async def stream(self, batches: Batches) -> AsyncGenerator[bytes, None]:
        """One piece of bytes per batch, the first once the request is accepted."""
        async with aclosing(batches):
            async for batch in batches:
                yield self._encoded([told for event in batch for told in self._output.add(event)])

    def fail(self, error: ShimmyError) -> bytes:
        """The last events of a stream that cannot go on."""
        return self._encoded(list(self._output.fail(error)))

    def _encoded(self, told: list[Told]) -> bytes:
        events = []
        for event in told:
            event["sequence_number"] = self._number
            self._number += 1
            events.append(b"event: %s\ndata: %s\n\n" % (event["type"].encode(), msgspec.json.encode(event)))
        return b"".join(events)


async def _collect(batches: Batches, output: Output) -> None:
    async with aclosing(batches):
        async for batch in batches:
            for event in batch:
                for _ in output.add(event):
                    pass


async def _in_our_words(batches: Batches, body: ResponsesRequest) -> Batches:
    async with aclosing(batches):
        try:
            async for batch in batches:
                yield batch
        except RequestError as error:
            raise in_our_words(error, body) from None
