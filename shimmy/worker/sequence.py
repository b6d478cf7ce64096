"""One choice of one request while it lives in the worker. It owns its tokens and progress, never native memory."""

import array
import math
from collections.abc import Sequence as Tokens
from typing import Any, Protocol

from shimmy.core.events import Dropped, Timings, TokenLogprob, Usage
from shimmy.core.request import Generation
from shimmy.worker.adapters import AdapterSet
from shimmy.worker.chat.plan import Plan
from shimmy.worker.echo import Echo, PromptLog
from shimmy.worker.prefix_states import Fetch
from shimmy.worker.prefix_tree import Node
from shimmy.worker.reply import Reply
from shimmy.worker.text import TextStream
from shimmy.worker.token_log import TokenLog

# A step costs as much as some tokens of a prompt, so that it must not stop for every few.
MIN_STRETCH_TOKENS = 16

NOTHING: "array.array[int]" = array.array("i")


class TokenSampler(Protocol):
    """What the loop asks of a sampler (worker/llama/sampler.py is the real one)."""

    def sample(self, context: int, row: int) -> int: ...
    def force(self, context: int, row: int, token: int) -> None: ...
    def begin_answer(self) -> None: ...
    def hold(self, name: str, text: str) -> None: ...
    @property
    def is_complete(self) -> bool: ...
    def is_met(self, text: str, *, is_cut: bool) -> bool: ...
    def take_logprob(self) -> TokenLogprob: ...
    def tell(self, context: int, row: int, token: int) -> TokenLogprob: ...
    def free(self) -> None: ...


class Request:
    """A generation with its prompt in tokens. `num_running` counts its sequences that hold a slot; unless one of them
    has begun to run by `start_by`, the request has failed. What is in different namespaces shares nothing. What its
    samplers are made of is in `recipe`, and in `plan` how its answers are read where they are more than text."""

    def __init__(
        self,
        generation: Generation,
        prompt: Tokens[int],
        stops: Tokens[str],
        arrived_at: float,
        namespace: str | None = None,
        recipe: Any = None,
        prediction: Tokens[int] = (),
        plan: Plan | None = None,
        adapters: AdapterSet = (),
        fingerprint: str = "",
        dropped: Dropped | None = None,
        echo: Echo | None = None,
    ) -> None:
        """Without a `namespace` it is the tenant's, which is for the model without `adapters`. `fingerprint` names what
        answers, `dropped` is what its prompt lost, `echo` what is told of it."""
        self.echo = echo
        self.fingerprint = fingerprint
        self.dropped = dropped
        self.generation = generation
        self.recipe = recipe
        self.plan = plan
        self.id = generation.id
        self.prompt = array.array("i", prompt)
        self.prediction = prediction
        self.adapters = adapters
        self.arrived_at = arrived_at
        self.tenant = generation.tenant
        self.namespace = self.tenant if namespace is None else namespace
        self.priority = generation.priority
        self.num_running = 0
        limit = generation.queue_seconds
        self.start_by = math.inf if limit is None else arrived_at + limit
        self.paused = False
        self.stops = stops
        self.sequences = [Sequence(self, index, stops) for index in range(generation.num_choices)]
        self.num_unfinished = len(self.sequences)

    @property
    def is_new(self) -> bool:
        """Whether nothing of it has run yet."""
        return all(sequence.admitted_at is None for sequence in self.sequences)


class Sequence:
    """Tokens of one choice, prompt first; the first `num_computed` of them are in the KV cache.

    While it runs, `slot` is its sequence id in the llama context, and `node` where the prefix tree has it: cells beyond
    the node's end are its own. `num_cached` tokens of the prompt were there when it first ran. It computes up to each
    of its `stops` before it goes beyond. While it waits, it may wait for `peer` to compute `awaited` tokens, or for
    `fetch`. `draft` are tokens that may follow, and are in the batch of this step behind the last one.
    """

    slot: int
    node: "Node[Sequence]"

    def __init__(self, request: Request, index: int, stops: Tokens[str]) -> None:
        self.request = request
        self.index = index
        self.tokens = array.array("i", request.prompt)
        self.num_prompt = len(request.prompt)
        self.num_computed = 0
        self.num_cached = 0
        self.is_running = False
        self.has_shared_prompt = False
        self.stops: list[int] = []
        self.peer: Sequence | None = None
        self.awaited = 0
        self.fetch: Fetch | None = None
        self.draft = NOTHING
        self.num_drafted = 0
        self.num_accepted = 0
        self.sampler: TokenSampler | None = None
        self.text = TextStream(stops)
        self.reply = None if request.plan is None else Reply(request.plan, stops)
        # What was sent, for those that must be something as a whole.
        is_held = request.generation.constraint is not None or (request.plan is not None and request.plan.terms)
        self.sent: list[str] | None = [] if is_held else None
        generation = request.generation
        self.token_log = None if generation.logprobs is None else TokenLog(has_every_token=generation.echo_logprobs)
        # All choices have the same prompt.
        wants_prompt = index == 0 and request.echo is not None and request.echo.pieces
        self.prompt_log = PromptLog(request.echo, request.prompt) if request.echo and wants_prompt else None
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None

    @property
    def namespace(self) -> str:
        return self.request.namespace

    def close(self) -> None:
        """Frees the sampler, and what was read of a state; the sequence will not run again."""
        self.fetch = None
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
    def num_due(self) -> int:
        """Tokens to be computed before anything else happens: at most up to the next stop."""
        return (self.stops[0] if self.stops else len(self.tokens)) - self.num_computed

    @property
    def reads_prompt(self) -> bool:
        """Whether each row of the prompt has to have logits."""
        return self.prompt_log is not None and not self.prompt_log.is_complete

    @property
    def num_reusable(self) -> int:
        """Tokens that need not be computed where they are known: not the last one, for its logits, nor those of a
        prompt whose logits have not been read."""
        most = len(self.tokens) - 1
        return min(most, self.prompt_log.num_read) if self.prompt_log and self.reads_prompt else most

    def stop_at(self, length: int) -> int:
        """Adds a stop, unless there is one a little before; returns which it is. `length` is not computed yet."""
        near = [stop for stop in self.stops if 0 <= length - stop < MIN_STRETCH_TOKENS]
        if near:
            return near[-1]
        self.stops.append(length)
        self.stops.sort()
        return length

    @property
    def is_waiting_for_peer(self) -> bool:
        peer = self.peer
        return peer is not None and peer.is_running and not peer.request.paused and peer.num_computed < self.awaited

    def usage(self) -> Usage:
        num_thought = 0 if self.reply is None else self.reply.num_thought
        drafts = self.num_drafted, self.num_accepted
        return Usage(self.num_prompt, self.num_generated, self.num_cached, *drafts, num_thought)

    def timings(self, now: float) -> Timings:
        admitted = now if self.admitted_at is None else self.admitted_at
        first = now if self.first_token_at is None else self.first_token_at
        return Timings(
            queue_seconds=admitted - self.request.arrived_at,
            prefill_seconds=first - admitted,
            decode_seconds=now - first,
        )
