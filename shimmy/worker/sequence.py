"""One choice of one request while it lives in the worker. It owns its tokens and progress, never native memory."""

import array
from collections.abc import Sequence as Tokens
from typing import Protocol

from shimmy.core.events import Timings, Usage
from shimmy.core.request import Generation
from shimmy.worker.text import TextStream


class TokenSampler(Protocol):
    """What the loop asks of a sampler (worker/llama/sampler.py is the real one)."""

    def sample(self, context: int, row: int) -> int: ...
    def free(self) -> None: ...


class Request:
    """A generation with its prompt in tokens. `num_running` counts its sequences that hold a slot."""

    def __init__(self, generation: Generation, prompt: Tokens[int], stops: Tokens[str], arrived_at: float) -> None:
        self.generation = generation
        self.id = generation.id
        self.prompt = array.array("i", prompt)
        self.arrived_at = arrived_at
        self.num_running = 0
        self.paused = False
        self.sequences = [Sequence(self, index, stops) for index in range(generation.num_choices)]
        self.num_unfinished = len(self.sequences)


class Sequence:
    """Tokens of one choice, prompt first; the first `num_computed` of them are in the KV cache.

    `slot` is the sequence id in the llama context while it runs. `shared_cells` of the cache came from a sibling.
    """

    def __init__(self, request: Request, index: int, stops: Tokens[str]) -> None:
        self.request = request
        self.index = index
        self.tokens = array.array("i", request.prompt)
        self.num_prompt = len(request.prompt)
        self.num_computed = 0
        self.shared_cells = 0
        self.slot: int | None = None
        self.sampler: TokenSampler | None = None
        self.text = TextStream(stops)
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None

    def close(self) -> None:
        """Frees the sampler; the sequence will not run again."""
        if self.sampler is not None:
            self.sampler.free()
            self.sampler = None

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Tokens still to be computed; 1 means that it decodes."""
        return len(self.tokens) - self.num_computed

    @property
    def prompt_computed(self) -> bool:
        """Whether siblings can share the prompt, all but its last token, which each must compute for its own logits."""
        return self.slot is not None and self.num_computed >= self.num_prompt - 1

    def usage(self) -> Usage:
        return Usage(prompt_tokens=self.num_prompt, completion_tokens=self.num_generated)

    def timings(self, now: float) -> Timings:
        admitted = now if self.admitted_at is None else self.admitted_at
        first = now if self.first_token_at is None else self.first_token_at
        return Timings(
            queue_seconds=admitted - self.request.arrived_at,
            prefill_seconds=first - admitted,
            decode_seconds=now - first,
        )
