"""Turns a generation's prompt into tokens that fit the context, or says exactly why not. Runs on the intake thread."""

import time
from typing import Protocol

from shimmy.core.errors import ContextOverflow, RequestError
from shimmy.core.request import Chat, Generation, Text
from shimmy.worker.chat.template import ChatTemplate
from shimmy.worker.sequence import Request


class Vocabulary(Protocol):
    """What tokenizing needs of a model (worker/llama/model.py is the real one)."""

    @property
    def adds_bos(self) -> bool: ...
    @property
    def bos_token(self) -> int | None: ...
    def text_of(self, token: int | None) -> str: ...
    def tokenize(self, text: str, *, add_special: bool) -> list[int]: ...
    def check_tokens(self, tokens: list[int]) -> None: ...


class Prompter:
    """Renders, tokenizes and checks; one per loaded model."""

    def __init__(self, vocabulary: Vocabulary, template: ChatTemplate, context_length: int) -> None:
        self._vocabulary = vocabulary
        self._template = template
        self._context_length = context_length

    def prepare(self, generation: Generation) -> Request:
        """Raises `RequestError` naming the field, `ContextOverflow` with both counts."""
        arrived_at = time.monotonic()
        is_chat = isinstance(generation.prompt, Chat)
        field = "messages" if is_chat else "prompt"
        tokens = self._tokens(generation)
        if not tokens:
            raise RequestError("the prompt is empty", param=field)
        if len(tokens) >= self._context_length:
            raise ContextOverflow(
                f"the prompt has {len(tokens)} tokens; the context of {self._context_length} must hold it and at least "
                "one more",
                param=field,
                num_prompt_tokens=len(tokens),
                context_length=self._context_length,
            )
        self._check_bias(generation)
        stops = generation.stop + self._template.stops if is_chat else generation.stop
        return Request(generation, tokens, stops, arrived_at)

    def _tokens(self, generation: Generation) -> list[int]:
        prompt = generation.prompt
        if isinstance(prompt, Chat):
            return self._vocabulary.tokenize(
                self._without_bos(self._template.render(prompt.messages)), add_special=True
            )
        if isinstance(prompt, Text):
            return self._vocabulary.tokenize(prompt.text, add_special=True)
        self._vocabulary.check_tokens(prompt.ids)
        return list(prompt.ids)

    def _without_bos(self, text: str) -> str:
        """Many templates spell the BOS token that tokenizing adds anyway; it must not stand there twice."""
        if not self._vocabulary.adds_bos:
            return text
        return text.removeprefix(self._vocabulary.text_of(self._vocabulary.bos_token))

    def _check_bias(self, generation: Generation) -> None:
        try:
            self._vocabulary.check_tokens(list(generation.sampling.logit_bias))
        except RequestError as error:
            raise RequestError(error.message, param="logit_bias") from error
