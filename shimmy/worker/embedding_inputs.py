"""Turns what vectors are made of into tokens that fit, or says exactly which input does not. Runs on the intake
thread."""

import array
import time
from typing import Protocol

from shimmy.core.errors import ContextOverflow, RequestError, TooLarge, Unsupported
from shimmy.core.request import Embedding, Pooling, Truncation
from shimmy.worker.embedding import Job

# In the vectors of the tokens of one request: 32 MB, which fit into a frame, and several times as much in JSON.
MAX_NUMBERS = 8 << 20


class Model(Protocol):
    """What is asked of a model (worker/llama/model.py is the real one)."""

    @property
    def is_encoder(self) -> bool: ...
    @property
    def stated_pooling(self) -> Pooling | None: ...
    @property
    def vector_width(self) -> int: ...
    @property
    def rank_template(self) -> str | None: ...
    @property
    def joints(self) -> tuple[list[int], list[int], list[int]]: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]: ...
    def check_tokens(self, tokens: list[int]) -> None: ...


def default_pooling(model: Model) -> Pooling:
    """What the file says. Where it says nothing, or that nothing was made of the tokens' vectors, an encoder's are the
    mean of those, as most were trained; other models have seen the whole text only with the last one."""
    stated = model.stated_pooling
    return stated if stated not in (None, "none") else "mean" if model.is_encoder else "last"


class InputReader:
    """One per loaded model."""

    def __init__(self, model: Model, max_tokens: int) -> None:
        """`max_tokens` of one input."""
        self._model = model
        self._max_tokens = max_tokens
        self._width = model.vector_width
        self._ranks = model.stated_pooling == "rank"
        self._default = default_pooling(model)

    def prepare(self, request: Embedding) -> Job:
        """Raises `RequestError` naming the input or the field, `ContextOverflow` with both counts."""
        arrived_at = time.monotonic()
        pooling = self._pooling(request)
        if request.dimensions is not None and request.dimensions > self._width:
            raise RequestError(
                f"dimensions: {request.dimensions} are more than the model's {self._width}", param="dimensions"
            )
        query = None if request.query is None else self._text_tokens(request.query, "query")
        inputs, dropped = [], []
        for number, each in enumerate(request.inputs):
            field = request.field.replace("*", str(number))
            tokens = self._tokens(each, request, query, field)
            kept = tokens if request.truncation is None else self._cut(tokens, request.truncation)
            inputs.append(array.array("i", self._fitting(kept, field)))
            dropped.append(len(tokens) - len(kept))
        if pooling == "none":
            self._check_rows(request, sum(map(len, inputs)))
        return Job(request, inputs, pooling, arrived_at, dropped)

    def _check_rows(self, request: Embedding, num_tokens: int) -> None:
        if num_tokens * self._width > MAX_NUMBERS:
            field = request.field.removesuffix("[*]")
            most = MAX_NUMBERS // self._width
            raise TooLarge(f"{field}: {num_tokens} tokens; at most {most} get a vector each at once", param=field)

    def _pooling(self, request: Embedding) -> Pooling:
        ranks = self._ranks
        if request.query is not None:
            if not ranks:
                raise Unsupported(
                    f"the model {request.model!r} does not rank: its file has no pooling type 'rank'", param="model"
                )
            return "rank"
        if request.pooling == "rank" or (request.pooling is None and ranks):
            hint = "it ranks: ask /v1/rerank, or name another pooling" if ranks else "it does not rank"
            raise Unsupported(
                f"the model {request.model!r} makes no vectors like that; {hint}",
                param="pooling" if request.pooling else "model",
            )
        return request.pooling or self._default

    def _tokens(self, each: str | list[int], request: Embedding, query: list[int] | None, field: str) -> list[int]:
        if not isinstance(each, str):
            try:
                self._model.check_tokens(each)
            except RequestError as error:
                raise RequestError(f"{field}: {error.message}", param=field) from error
            return each
        if query is None or request.query is None:
            return self._text_tokens(each, field, add_special=True, parse_special=True)
        if (template := self._model.rank_template) is not None:
            text = _filled(template, query=request.query, document=each)
            return self._text_tokens(text, field, parse_special=True)
        before, between, after = self._model.joints
        return [*before, *query, *between, *self._text_tokens(each, field), *after]

    def _text_tokens(
        self, text: str, field: str, *, add_special: bool = False, parse_special: bool = False
    ) -> list[int]:
        try:
            return self._model.tokenize(text, add_special=add_special, parse_special=parse_special)
        except (RequestError, TooLarge) as error:
            raise type(error)(f"{field}: {error.message.replace('the prompt', 'it')}", param=field) from error

    def _cut(self, tokens: list[int], truncation: Truncation) -> list[int]:
        """At most as many as are wanted. What begins and ends every text stays."""
        num_kept = self._max_tokens if truncation.num_tokens < 0 else truncation.num_tokens
        if len(tokens) <= num_kept:
            return tokens
        before, _, after = self._model.joints
        first = len(before) if tokens[: len(before)] == before else 0
        last = len(tokens) - (len(after) if after and tokens[-len(after) :] == after else 0)
        num_left = num_kept - first - (len(tokens) - last)
        if num_left <= 0:
            return tokens[:num_kept]
        keeps_end = truncation.what == "first_tokens"
        body = tokens[last - num_left : last] if keeps_end else tokens[first : first + num_left]
        return tokens[:first] + body + tokens[last:]

    def _fitting(self, tokens: list[int], field: str) -> list[int]:
        if not tokens:
            raise RequestError(f"{field}: it has no tokens", param=field)
        if len(tokens) > self._max_tokens:
            raise ContextOverflow(
                f"{field}: it has {len(tokens)} tokens; the model takes {self._max_tokens} at most",
                param=field,
                num_prompt_tokens=len(tokens),
                context_length=self._max_tokens,
            )
        return tokens


def _filled(template: str, *, query: str, document: str) -> str:
    """Neither text is looked into for the other's place."""
    pieces = [piece.replace("{document}", document) for piece in template.split("{query}")]
    return query.join(pieces)
