"""What both kinds of completion do with their generations: run them, and answer whole or as a stream."""

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.events import FinishReason
from shimmy.core.request import Generation
from shimmy.core.settings import Settings
from shimmy.protocols.openai.answer import Choice, Head, Tally, best, collect, head, without_thoughts
from shimmy.protocols.openai.chunks import ChunkEncoder, Shape, stream
from shimmy.protocols.openai.errors import encode_error_event
from shimmy.protocols.openai.logprobs import Form, Offsets
from shimmy.protocols.openai.merge import merge
from shimmy.protocols.openai.wire import ChatRequest, CompletionRequest
from shimmy.server.inference import Inference
from shimmy.server.streaming import EventStream, observed, until_disconnect


class Kind(msgspec.Struct, frozen=True):
    """What a chat completion and a plain one look like: the `object` of an answer and of a chunk, their choices, and
    what is told of tokens."""

    object: str
    chunk_object: str
    choice: Callable[[int, Choice], dict[str, Any]]
    shape: Shape
    form: Form
    reason: Callable[[FinishReason], str] = str

    def whole(self, index: int, choice: Choice, tells_tokens: bool) -> dict[str, Any]:
        logprobs = self.form(choice.prompt_tokens + choice.tokens, Offsets()) if tells_tokens else None
        return self.choice(index, choice) | {"logprobs": logprobs, "finish_reason": self.reason(choice.reason)}


class Endpoint:
    def __init__(self, inference: Inference, settings: Settings) -> None:
        self._inference = inference
        self._ping_seconds = settings.ping_seconds

    async def answer(
        self,
        request: Request,
        body: ChatRequest | CompletionRequest,
        kind: Kind,
        id: str,
        generations: list[Generation],
        *,
        hides_thoughts: bool = False,
    ) -> Response | EventStream:
        """One generation per prompt; the answer goes by `id`. It has the best `n` choices of each."""
        answers = [self._inference.generate(generation, whole=not body.stream) for generation in generations]
        batches = merge([observed(request.scope, body.model, answer) for answer in answers])
        if hides_thoughts:
            batches = without_thoughts(batches)
        num_choices = generations[0].num_choices
        if body.stream:
            include_usage = bool(body.stream_options and body.stream_options.include_usage)
            chunk_head = head(id, kind.chunk_object, body.model)
            encoder = ChunkEncoder(chunk_head, kind.shape, kind.form, len(generations), num_choices, include_usage)
            source = stream(batches, encoder, len(generations), include_usage)
            return EventStream(source, encode_error_event, self._ping_seconds, encoder.tally.headers)
        choices, tally = await until_disconnect(request.receive, collect(batches, num_choices))
        kept = best(choices, num_choices, body.n or 1)
        shown = [kind.whole(index, choice, body.tells_tokens) for index, choice in enumerate(kept)]
        return _whole(head(id, kind.object, body.model), shown, tally)


def _whole(head: Head, choices: list[dict[str, Any]], tally: Tally) -> Response:
    named = msgspec.structs.asdict(head) | {"system_fingerprint": tally.fingerprint}
    totals = {"usage": tally.usage(), "timings": tally.timings()} | tally.truncation()
    headers = {name.decode(): value.decode() for name, value in tally.headers()}
    content = msgspec.json.encode(named | {"choices": choices} | totals)
    return Response(content, headers=headers, media_type="application/json")
