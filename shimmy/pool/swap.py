"""Brings another version of a loaded model beside the one that answers: loads it and has it say something.

Knows groups of workers, not names: who is asked from then on is the business of whoever gets the outcome.
"""

import asyncio
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal

import msgspec

from shimmy.core.errors import ModelFailed, ShimmyError
from shimmy.core.events import Embedded, TextDelta
from shimmy.core.request import Embedding, Generation, Sampling, Text
from shimmy.pool.handle import Handle

if TYPE_CHECKING:
    from shimmy.models.listing import Model
    from shimmy.pool.group import Group

log = logging.getLogger(__name__)

VALIDATION_SECONDS = 60.0
_MAX_TOKENS = 4
_TEXT = "Hello"

SwitchState = Literal["loading", "validating", "done", "failed"]


class SwitchStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the last switch of a model goes, or went; `reason` when failed."""

    state: SwitchState
    reason: str | None = None


class Switch:
    """One attempt to bring `model` up. `make` gives its workers, of which one is loaded, and `hand_over` gets them once
    that one has been tried. Where anything fails the new version is ended, and `error` says why."""

    def __init__(
        self,
        model: "Model",
        make: "Callable[[], Group]",
        hand_over: "Callable[[Group], None]",
        tally: Counter[str],
    ) -> None:
        self.model = model
        self.error: ShimmyError | None = None
        self._state: SwitchState = "loading"
        self.candidate: Group | None = None
        self._make, self._hand_over = make, hand_over
        self._tally = tally
        self._task = asyncio.create_task(self._run())

    @property
    def over(self) -> bool:
        return self._state in ("done", "failed")

    @property
    def status(self) -> SwitchStatus:
        return SwitchStatus(self._state, self.error.message if self.error is not None else None)

    async def wait(self) -> None:
        """Until it is over; whoever waits may leave."""
        await asyncio.wait([self._task])

    async def cancel(self, error: ShimmyError) -> None:
        """End the attempt, if it is not over. Returns once its worker is gone."""
        if not self.over:
            self._task.cancel()
            await self._give_up(error)
        await self.wait()

    async def _run(self) -> None:
        try:
            candidate = self.candidate = self._make()
            handle = await candidate.acquire()
            self._state = "validating"
            await validate(handle)
        except ShimmyError as error:
            log.warning("model %s stays as it was loaded: %s", self.model.id, error.message)
            self._tally["failed_switches"] += 1
            await self._give_up(error)
        except Exception:
            log.exception("cannot switch model %s", self.model.id)
            self._tally["failed_switches"] += 1
            await self._give_up(ModelFailed("a fault of ours; the log has it"))
        else:
            self._state = "done"
            self._tally["switches"] += 1
            self._hand_over(candidate)
            log.info("model %s is another version from now on", self.model.id)

    async def _give_up(self, error: ShimmyError) -> None:
        self.error = error
        self._state = "failed"
        if self.candidate is not None:
            await self.candidate.leave(error)


async def validate(handle: Handle) -> None:
    """Have it give a short answer, or a vector where the model makes those. Raises `ShimmyError` where it cannot, or
    where what it computes is no number."""
    try:
        async with asyncio.timeout(VALIDATION_SECONDS):
            await _ask(handle)
    except TimeoutError as error:
        raise ModelFailed(f"it said nothing within {VALIDATION_SECONDS:g} s when it was tried") from error


async def _ask(handle: Handle) -> None:
    stream = await handle.submit(_request(handle))
    try:
        async for batch in stream:
            for event in batch:
                if isinstance(event, TextDelta):
                    _check(token.logprob for token in event.tokens if token.logprob is not None)
                elif isinstance(event, Embedded):
                    _check(memoryview(event.vectors).cast("f"))
    finally:
        handle.abort(stream)


def _check(numbers: Iterable[float]) -> None:
    """What is wrong with a model's weights shows here before it shows in its texts."""
    if not all(map(math.isfinite, numbers)):
        raise ModelFailed("what it computes is not a number")


def _request(handle: Handle) -> Generation | Embedding:
    id = f"validation-{os.urandom(12).hex()}"
    if handle.loaded is not None and not handle.loaded.template_source:
        return Embedding(id=id, model=handle.name, inputs=[_TEXT], pooling="mean")
    return Generation(
        id=id,
        model=handle.name,
        prompt=Text(_TEXT),
        sampling=Sampling.of(temperature=0.0),
        max_tokens=_MAX_TOKENS,
        logprobs=0,
    )
