"""Turns a generation's prompt into tokens that fit the context, or says exactly why not. Runs on the intake thread."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from shimmy.core import ipc
from shimmy.core.errors import ContextOverflow, RequestError
from shimmy.core.request import Chat, Generation, Infill, Prompt, Text
from shimmy.worker.adapters import Adapters, AdapterSet
from shimmy.worker.chat.plan import Plan, Planner
from shimmy.worker.chat.template import ChatTemplate
from shimmy.worker.echo import echoed
from shimmy.worker.sequence import Request

if TYPE_CHECKING:
    from shimmy.worker.llama.model import InfillTokens


class Vocabulary(Protocol):
    """What tokenizing needs of a model (worker/llama/model.py is the real one)."""

    @property
    def adds_bos(self) -> bool: ...
    @property
    def bos_token(self) -> int | None: ...
    def text_of(self, token: int | None) -> str: ...
    @property
    def infill_tokens(self) -> "InfillTokens": ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]: ...
    def spellings(self, tokens: list[int]) -> list[bytes]: ...
    def piece(self, token: int) -> bytes | None: ...
    def check_tokens(self, tokens: list[int]) -> None: ...


def private_namespace(namespace: str, key: bytes) -> str:
    """See worker/disk/scope.py; imported when the first request brings a key."""
    from shimmy.worker.disk import scope

    return scope.private_namespace(namespace, key)


class Prompter:
    """Renders, tokenizes and checks; one per loaded model, made before there are two threads."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        template: ChatTemplate,
        context_length: int,
        unlock: Callable[[str, bytes], str] = private_namespace,
        recipe: Callable[[Generation, Plan | None], Any] = lambda generation, plan: None,
        planner: Planner | None = None,
        *,
        has_draft_model: bool = False,
        adapters: Adapters | None = None,
        fingerprint: Callable[[AdapterSet], str] = lambda adapters: "",
    ) -> None:
        """`unlock(namespace, key)` names the namespace of those requests that bring a key, `recipe` makes of a
        generation what its samplers will be made of, `fingerprint(adapters)` names what answers. Without a
        `planner` an answer is nothing but text."""
        self._fingerprint = fingerprint
        self._planner = planner
        self._has_draft_model = has_draft_model
        self._adapters = adapters or Adapters()
        self._recipe = recipe
        self._vocabulary = vocabulary
        self._template = template
        self._context_length = context_length
        self._unlock = unlock
        # Many templates spell the BOS token that tokenizing adds anyway; it must not stand there twice.
        self._doubled_bos = vocabulary.text_of(vocabulary.bos_token) if vocabulary.adds_bos else ""

    def prepare(self, generation: Generation) -> Request:
        """Raises `RequestError` naming the field, `ContextOverflow` with both counts."""
        arrived_at = time.monotonic()
        is_chat = isinstance(generation.prompt, Chat)
        field = "messages" if is_chat else "prompt"
        rendered = self.rendered(generation.prompt) if isinstance(generation.prompt, Chat) else None
        tokens = self._tokens(generation.prompt, rendered, generation.max_tokens or 0)
        if not tokens:
            raise RequestError("the prompt is empty", param=field)
        dropped = None
        if generation.truncation is not None:
            from shimmy.worker.truncation import truncated

            tokens, rendered, dropped = truncated(generation, tokens, rendered, self, self._context_length)
        self._check_length(tokens, field)
        self._check_tokens(list(generation.sampling.logit_bias), "logit_bias")
        self._check_tokens(generation.stop_tokens, "stop_token_ids")
        if generation.speculative.type == "draft" and not self._has_draft_model:
            raise RequestError("there is no draft model", param="speculative.type")
        plan = self._planner.of(generation, rendered) if self._planner and rendered is not None else None
        stops = self._template.stops if is_chat else []
        adapters = self._adapters.resolve(generation.lora)
        return Request(
            generation,
            tokens,
            # Those of the request are for the content alone, where there is more than that.
            stops if plan is not None else generation.stop + stops,
            arrived_at,
            namespace=self._namespace(generation, adapters),
            recipe=self._recipe(generation, plan),
            prediction=self._prediction(generation),
            plan=plan,
            adapters=adapters,
            fingerprint=self._fingerprint(adapters),
            dropped=dropped,
            echo=echoed(generation, tokens, self._vocabulary) if generation.echo else None,
        )

    @property
    def context_length(self) -> int:
        return self._context_length

    @property
    def template_source(self) -> str:
        return self._template.source

    def tokens(self, prompt: Prompt) -> list[int]:
        """Those of a prompt, whether or not they fit."""
        return self._tokens(prompt, self.rendered(prompt) if isinstance(prompt, Chat) else None)

    def rendered(self, chat: Chat) -> str:
        """As it is tokenized: the token that is put before it is not spelled in it."""
        instructions = self._planner.instructions if self._planner else None
        return self._template.render(chat, instructions).removeprefix(self._doubled_bos)

    def starts_with_bos(self, tokens: list[int]) -> bool:
        """Whether they begin with the token that the model wants at the beginning of every text."""
        return self._vocabulary.adds_bos and tokens[:1] == [self._vocabulary.bos_token]

    def rendered_tokens(self, rendered: str) -> list[int]:
        """Those of a chat as its template has rendered it."""
        try:
            return self._vocabulary.tokenize(rendered, add_special=True)
        except RequestError as error:
            raise type(error)(error.message, param="messages") from error

    def answer(self, question: ipc.Question) -> list[ipc.Tokenized | ipc.Counted | ipc.Written]:
        """In parts, one at least. Raises `RequestError` naming what is wrong with it."""
        from shimmy.worker.questions import answer, parts

        return list(parts(answer(question, self, self._vocabulary)))

    def _tokens(self, prompt: Prompt, rendered: str | None, reserved: int = 0) -> list[int]:
        """`reserved` is how many will be needed after them."""
        if rendered is not None:
            return self.rendered_tokens(rendered)
        if isinstance(prompt, Text):
            return self._vocabulary.tokenize(prompt.text, add_special=True)
        if isinstance(prompt, Infill):
            from shimmy.worker.infill import infill_tokens

            return infill_tokens(prompt, self._vocabulary, self._context_length - reserved)
        assert not isinstance(prompt, Chat)
        self._vocabulary.check_tokens(prompt.ids)
        return list(prompt.ids)

    def _namespace(self, generation: Generation, adapters: AdapterSet) -> str:
        key, name = generation.encryption_key, self._adapters.namespace(generation.tenant, adapters)
        return name if key is None else self._unlock(name, key.value)

    def _prediction(self, generation: Generation) -> list[int]:
        """In tokens; what is beyond the context would never be looked up."""
        if not generation.prediction or generation.speculative.type not in (None, "ngram"):
            return []
        try:
            return self._vocabulary.tokenize(generation.prediction, add_special=False)[: self._context_length]
        except RequestError as error:
            raise type(error)(error.message.replace("prompt", "prediction"), param="prediction") from error

    def _check_length(self, tokens: list[int], field: str) -> None:
        if len(tokens) >= self._context_length:
            raise ContextOverflow(
                f"the prompt has {len(tokens)} tokens; the context of {self._context_length} must hold it and at least "
                "one more",
                param=field,
                num_prompt_tokens=len(tokens),
                context_length=self._context_length,
            )

    def _check_tokens(self, tokens: list[int], field: str) -> None:
        try:
            self._vocabulary.check_tokens(tokens)
        except RequestError as error:
            raise RequestError(error.message, param=field) from error
