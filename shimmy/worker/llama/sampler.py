"""Draws the tokens of one sequence, through a chain in C."""

import ctypes as c
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from shimmy.core.events import TokenLogprob
from shimmy.worker.banned import Ban, must_be_watched
from shimmy.worker.llama.chain import Chain
from shimmy.worker.llama.libllama import llama
from shimmy.worker.llama.probe import Probe
from shimmy.worker.llama.recipe import Recipe

if TYPE_CHECKING:
    from shimmy.worker.constraints.gate import Gate
    from shimmy.worker.constraints.matcher import Guide


class Sampler:
    """Owns the native chain until `free`; follows the constraint, where there is one."""

    def __init__(self, recipe: Recipe, choice: int, prompt: Sequence[int], probe: Probe | None = None) -> None:
        """`prompt` is counted by those samplers that look back beyond the answer; `probe` is needed for logprobs."""
        self._library = llama()
        self._sample = self._library.llama_sampler_sample
        built = Chain(recipe, choice)
        self._chain: int | None = built.native
        for link, window in built.remembering:
            for token in prompt[-window:]:
                self._library.llama_sampler_accept(link, token)
        self._ban = Ban(recipe.banned) if must_be_watched(recipe.banned) else None
        self._probe = probe if recipe.logprobs is not None else None
        self._num_alternatives = recipe.logprobs or 0
        self._records: deque[TokenLogprob] = deque()
        self._guide = recipe.guide()
        self._draw: Callable[[int, int], int] = self._sample_any
        if self._guide is not None:
            self._draw = self._guided(self._guide, built, recipe.vocabulary_size)

    def sample(self, context: int, row: int) -> int:
        """The next token, from the logits of batch row `row`; the chain remembers it for its penalties."""
        if self._ban is None and self._probe is None:
            return self._draw(context, row)
        return self._sample_watched(context, row)

    def force(self, context: int, row: int, token: int) -> None:
        """`token` comes, whatever would be drawn; a constraint that is followed must allow it."""
        reading = self._probe.read(context, row) if self._probe else None
        self._library.llama_sampler_accept(self._chain, token)
        if self._guide is not None and not self._guide.take(token):
            raise self._guide.failure()
        if self._ban:
            self._ban.observe(token)
        if self._probe and reading:
            self._records.append(self._probe.record(reading, token, self._num_alternatives))

    def begin_answer(self) -> None:
        """What has come so far were thoughts; the constraint is for what comes now."""
        if self._guide is not None:
            self._guide.begin()

    def hold(self, name: str, text: str) -> None:
        """The arguments of a call of the tool `name` are next, and have come as far as `text`."""
        if self._guide is not None:
            self._guide.hold(name, text)

    @property
    def is_complete(self) -> bool:
        """Whether nothing may follow but the end."""
        return self._guide is not None and self._guide.is_complete

    def is_met(self, text: str, *, is_cut: bool) -> bool:
        """Whether the answer that was sent is what it must be; `is_cut` if its end was not sent."""
        return self._guide is None or self._guide.is_met(text, is_cut=is_cut)

    def take_logprob(self) -> TokenLogprob:
        """What there is to tell of the first sampled token of which it was not told yet."""
        return self._records.popleft()

    def tell(self, context: int, row: int, token: int) -> TokenLogprob:
        """The same of a token of the prompt, which follows `row`. Only where logprobs are asked for."""
        if self._probe is None:
            raise ValueError("there is no probe")
        return self._probe.record(self._probe.read(context, row), token, self._num_alternatives)

    def free(self) -> None:
        if self._chain:
            self._library.llama_sampler_free(self._chain)
            self._chain = None
            # It leads back here, and would stay until the collector comes.
            del self._draw

    def _sample_any(self, context: int, row: int) -> int:
        return int(self._sample(self._chain, context, row))

    def _guided(self, guide: "Guide | Gate", chain: Chain, vocabulary_size: int) -> Callable[[int, int], int]:
        from shimmy.worker.llama.guided import GuidedDraw

        return GuidedDraw(chain, guide, vocabulary_size).sample

    def _sample_watched(self, context: int, row: int) -> int:
        reading = self._probe.read(context, row) if self._probe else None
        if self._ban:
            self._strike_out(self._ban.tokens(), context, row)
        token = self._draw(context, row)
        if self._ban:
            self._ban.observe(token)
        if self._probe and reading:
            self._records.append(self._probe.record(reading, token, self._num_alternatives))
        return token

    def _strike_out(self, tokens: list[int], context: int, row: int) -> None:
        """In the row itself: a sampler for it would have to be made anew for each token."""
        if tokens:
            logits = int(self._library.llama_get_logits_ith(context, row))
            for token in tokens:
                c.c_float.from_address(logits + 4 * token).value = -math.inf
