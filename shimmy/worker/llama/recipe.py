"""What the samplers of one request have in common, as far as it takes time to find out: made on the intake thread."""

import logging
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from shimmy.core.defaults import own_sampling
from shimmy.core.errors import RequestError
from shimmy.core.request import Generation, Sampling
from shimmy.worker.banned import Banned, banned_by
from shimmy.worker.chat.plan import Plan
from shimmy.worker.llama.dry import Dries, Dry
from shimmy.worker.llama.model import Model

if TYPE_CHECKING:
    from shimmy.worker.constraints.compile import Compiler
    from shimmy.worker.constraints.gate import Gate, Terms
    from shimmy.worker.constraints.matcher import Compiled, Guide

log = logging.getLogger("shimmy.worker")


class Recipe(msgspec.Struct, frozen=True):
    """`sampling` has the model's own values where the request has none; counts are in tokens. `terms` say when the
    constraint begins, if not at once."""

    sampling: Sampling
    banned: Banned
    dry: Dry | None
    vocabulary_size: int
    context_length: int
    logprobs: int | None
    constraint: "Compiled | None" = None
    terms: "Terms | None" = None

    def guide(self) -> "Guide | Gate | None":
        """For one answer: what follows it through its constraint."""
        if self.constraint is None:
            return None
        guide = self.constraint.guide()
        if self.terms is None:
            return guide
        from shimmy.worker.constraints.gate import Gate

        return Gate(guide, self.terms)


class Recipes:
    """Makes them for one model and its context."""

    def __init__(self, model: Model, context_length: int) -> None:
        self._model = model
        self._context_length = context_length
        self._dries = Dries(model.vocab, context_length)
        self._own = own_sampling(model.metadata, _report)

    def of(self, generation: Generation, plan: Plan | None = None) -> Recipe:
        """Raises `RequestError`, naming the field, for text that is not Unicode, and for a constraint that is wrong."""
        sampling = generation.sampling.or_else(self._own)
        try:
            dry = self._dries.of(sampling)
        except UnicodeEncodeError as error:
            raise RequestError(f"not valid Unicode: {error.reason}", param="dry_sequence_breakers") from error
        try:
            banned = banned_by(generation, self._model)
        except RequestError as error:
            raise RequestError(error.message, param="bad_words") from error
        size, terms = self._model.vocabulary_size, None if plan is None else plan.terms
        constraint = self._constraint(generation, plan)
        return Recipe(sampling, banned, dry, size, self._context_length, generation.logprobs, constraint, terms)

    def _constraint(self, generation: Generation, plan: Plan | None) -> "Compiled | None":
        if plan is not None and plan.calls is not None:
            calls = plan.calls
            return self._compiler.compile_calls(
                calls.lark, calls.field, generation.constraint if calls.or_answer else None
            )
        return None if generation.constraint is None else self._compiler.compile(generation.constraint)

    @cached_property
    def _compiler(self) -> "Compiler":
        from shimmy.worker.constraints.compile import Compiler

        return Compiler(self._model)


def _report(key: str, value: object) -> None:
    log.warning("the model file's %s is %.40r, which is ignored", key, value)
