"""POST /v1/completions: text, or token ids, without a chat template."""

from typing import Any, cast

from starlette.requests import Request
from starlette.responses import Response

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.events import Finished
from shimmy.core.request import Generation, Infill, Prompt, Text, Tokens
from shimmy.core.unknown_fields import Decoder
from shimmy.protocols.openai.answer import Choice
from shimmy.protocols.openai.chunks import Shape, encode
from shimmy.protocols.openai.constraint import constraint
from shimmy.protocols.openai.endpoint import Endpoint, Kind
from shimmy.protocols.openai.generation import (
    common,
    new_id,
    token_limit,
    truncation,
)
from shimmy.protocols.openai.logprobs import completion_form
from shimmy.protocols.openai.wire import CompletionRequest
from shimmy.server.streaming import EventStream
from shimmy.server.strictness import read

MAX_CHOICES = 128  # of one request, all its prompts together
DEFAULT_MAX_TOKENS = 16  # OpenAI API reference, completions, max_tokens

_decoder = Decoder(CompletionRequest)


class Completions(Endpoint):
    async def create(self, request: Request) -> Response | EventStream:
        body = await read(request, _decoder)
        _refuse_unsupported(body)
        max_tokens = token_limit(body, usual=DEFAULT_MAX_TOKENS, least=0)
        id = new_id("cmpl")
        shared = common(body, request.state.tenant)
        generations = [
            Generation(
                id=f"{id}-{number}",
                model=body.model,
                prompt=prompt,
                max_tokens=max_tokens,
                num_choices=_num_choices(body),
                logprobs=_num_logprobs(body),
                echo=bool(body.echo),
                echo_logprobs=bool(body.echo) and body.tells_tokens,
                constraint=constraint(body),
                truncation=truncation(body),
                **shared,
            )
            for number, prompt in enumerate(prompts_of(body))
        ]
        return await self.answer(request, body, _KIND, id, generations)


def _refuse_unsupported(body: CompletionRequest) -> None:
    if body.echo and body.tells_tokens and body.suffix:
        raise Unsupported(
            "logprobs: not of a prompt with a suffix, which has no text as a whole; leave echo or logprobs out",
            param="logprobs",
        )
    if _num_choices(body) < (body.n or 1):
        raise RequestError("best_of: must not be less than n", param="best_of")
    if _num_choices(body) > (body.n or 1) and body.stream:
        raise RequestError("best_of: a stream cannot wait for the best; leave stream or best_of out", param="best_of")


def _num_choices(body: CompletionRequest) -> int:
    return (body.n or 1) if body.best_of is None else body.best_of


def _num_logprobs(body: CompletionRequest) -> int | None:
    """The best choices are told by their tokens' probabilities."""
    if body.tells_tokens:
        return int(body.logprobs or 0)
    return 0 if _num_choices(body) > (body.n or 1) else None


def prompts_of(body: CompletionRequest) -> list[Prompt]:
    """Raises `RequestError` for a mixture, for nothing, and for too much."""
    prompts = _split(body.prompt)
    if body.suffix:
        prompts = [_infill(prompt, body.suffix) for prompt in prompts]
    if len(prompts) * _num_choices(body) > MAX_CHOICES:
        raise RequestError(f"prompt: prompts times n is over the limit of {MAX_CHOICES} choices", param="prompt")
    return prompts


def _infill(prompt: Prompt, suffix: str) -> Infill:
    if not isinstance(prompt, Text):
        raise RequestError("suffix: the prompt must be a text for that, not token ids", param="suffix")
    return Infill(prompt.text, suffix)


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
    return {"index": index, "text": choice.text}


def _begin(index: int) -> bytes:
    """There is nothing to say before the text."""
    return b""


def _go_on(index: int, text: str, logprobs: bytes) -> bytes:
    return b'{"index":%d,"text":%s,"logprobs":%s,"finish_reason":null}' % (index, encode(text), logprobs)


def _finish(index: int, event: Finished) -> bytes:
    return b'{"index":%d,"text":"","logprobs":null,"finish_reason":"%s"}' % (index, event.reason.encode())


_KIND = Kind("text_completion", "text_completion", _choice, Shape(_begin, _go_on, _finish), completion_form)
