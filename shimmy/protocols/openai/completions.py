"""POST /v1/completions: text, or token ids, without a chat template."""

from typing import Any, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.events import FinishReason
from shimmy.core.request import Generation, Prompt, Text, Tokens
from shimmy.protocols.openai.answer import Choice
from shimmy.protocols.openai.chunks import Shape, encode
from shimmy.protocols.openai.endpoint import Endpoint, Kind
from shimmy.protocols.openai.errors import decode
from shimmy.protocols.openai.generation import new_id, refuse, sampling, scheduling, speculative, stop_strings
from shimmy.protocols.openai.wire import CompletionRequest
from shimmy.server.streaming import EventStream

MAX_CHOICES = 128  # of one request, all its prompts together
DEFAULT_MAX_TOKENS = 16  # OpenAI API reference, completions, max_tokens

_decoder = msgspec.json.Decoder(CompletionRequest)


class Completions(Endpoint):
    async def create(self, request: Request) -> Response | EventStream:
        body = decode(_decoder, await request.body())
        _refuse_unsupported(body)
        id = new_id("cmpl")
        generations = [
            Generation(
                id=f"{id}-{number}",
                model=body.model,
                prompt=prompt,
                sampling=sampling(body),
                max_tokens=DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens,
                stop=stop_strings(body),
                num_choices=body.n or 1,
                speculative=speculative(body),
                **scheduling(body, request.state.tenant),
            )
            for number, prompt in enumerate(prompts_of(body))
        ]
        return await self.answer(request, body, _KIND, id, generations)


def _refuse_unsupported(body: CompletionRequest) -> None:
    refuse({"echo": body.echo, "suffix": body.suffix, "logprobs": body.logprobs})
    if body.best_of is not None and body.best_of > (body.n or 1):
        raise Unsupported("best_of: more than n is not supported", param="best_of")


def prompts_of(body: CompletionRequest) -> list[Prompt]:
    """Raises `RequestError` for a mixture, for nothing, and for too much."""
    prompts = _split(body.prompt)
    if len(prompts) * (body.n or 1) > MAX_CHOICES:
        raise RequestError(f"prompt: prompts times n is over the limit of {MAX_CHOICES} choices", param="prompt")
    return prompts


def _split(prompt: str | list[str | int | list[int]]) -> list[Prompt]:
    """A string, strings, token ids, or lists of token ids; not a mixture of them."""
    if isinstance(prompt, str):
        return [Text(prompt)]
    kinds = {type(item) for item in prompt}
    if kinds == {str}:
        return [Text(text) for text in cast(list[str], prompt)]
    if kinds == {int}:
        return [Tokens(cast(list[int], prompt))]
    if kinds == {list} and all(prompt):
        return [Tokens(ids) for ids in cast(list[list[int]], prompt)]
    raise RequestError("prompt: expected a string, strings, token ids, or lists of token ids", param="prompt")


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    return {"index": index, "text": choice.text, "logprobs": None, "finish_reason": choice.reason}


def _begin(index: int) -> bytes:
    return b""


def _go_on(index: int, text: str) -> bytes:
    return b'{"index":%d,"text":%s,"logprobs":null,"finish_reason":null}' % (index, encode(text))


def _finish(index: int, reason: FinishReason) -> bytes:
    return b'{"index":%d,"text":"","logprobs":null,"finish_reason":"%s"}' % (index, reason.encode())


_KIND = Kind("text_completion", "text_completion", _choice, Shape(_begin, _go_on, _finish))
