"""What comes back while a request runs: the only currency between worker, server and protocols.

For each request: one `Accepted`, then, where the prompt is wanted back, `Echoed`, then per choice any number of deltas
and exactly one `Finished`; or, at any point, one `Failed`, which ends the whole request. An `Embedding` gets one
`Embedded` for each of its inputs, or a `Failed`.
"""

from typing import Literal

import msgspec

from shimmy.core.errors import Fault

FinishReason = Literal["stop", "length", "tool_calls"]
DroppedPart = Literal["oldest_turns", "first_tokens", "last_tokens"]


class Timings(msgspec.Struct, frozen=True):
    """Where the time went, one after the other, in seconds of a monotonic clock. `load_seconds` is how long the request
    waited for its model, which the server adds to what the worker says."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float
    load_seconds: float = 0.0


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one choice; `completion_tokens` counts sampled tokens, the end-of-generation token excluded.
    `drafted_tokens` were computed on a guess, of which `accepted_tokens` were what was sampled then.
    `reasoning_tokens` of the completion are what the model thought with, the mark at the end included."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reasoning_tokens: int = 0


class Dropped(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a prompt lost by the truncation that its request asked for: so many tokens and, where those were whole
    turns of a chat, so many messages."""

    what: DroppedPart
    num_tokens: int
    num_messages: int = 0


class Accepted(msgspec.Struct, frozen=True, tag="accepted", omit_defaults=True):
    """The prompt was rendered, tokenized and fits; from here on errors arrive mid-stream. `fingerprint` names the
    model, the build and the set-up that answer (worker/fingerprint.py); `dropped` is what is missing of the prompt."""

    id: str
    prompt_tokens: int
    fingerprint: str = ""
    dropped: Dropped | None = None


class Alternative(msgspec.Struct, frozen=True, array_like=True):
    """A token that could have stood in some place."""

    bytes: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token of an answer or a prompt: the bytes it adds to the text, the logarithm of its probability before any
    sampler, and the likeliest tokens of its place, the likeliest first. The first of a prompt has no `logprob`."""

    bytes: bytes
    logprob: float | None
    top: list[Alternative] = []


class Echoed(msgspec.Struct, frozen=True, tag="echoed", omit_defaults=True):
    """The prompt of all choices of a request: its text in the first of them and, where they are asked for, its next
    `tokens` in each. All tokens make the text."""

    id: str
    text: str = ""
    tokens: list[TokenLogprob] = []


class TextDelta(msgspec.Struct, frozen=True, tag="text", omit_defaults=True):
    """Some more text of choice `index`: whole characters, never part of a stop string, and never empty unless it brings
    tokens. `tokens` are those whose text is complete with this delta: all tokens of a choice make all its text, and
    what marks thoughts and calls in it, where there are any."""

    id: str
    index: int
    text: str
    tokens: list[TokenLogprob] = []


class ReasoningDelta(msgspec.Struct, frozen=True, tag="reasoning", omit_defaults=True):
    """Some more of what choice `index` thinks before it answers; in all else like a `TextDelta`."""

    id: str
    index: int
    text: str
    tokens: list[TokenLogprob] = []


class ToolCallDelta(msgspec.Struct, frozen=True, tag="tool_call", omit_defaults=True):
    """Some more of call number `call` of choice `index`. The first delta of a call has its `call_id` and `name`, and
    all `arguments` of its deltas make the JSON text of an object."""

    id: str
    index: int
    call: int
    arguments: str = ""
    call_id: str | None = None
    name: str | None = None


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """Choice `index` is complete; nothing follows for it. `stop` is the stop string that ended it, if one did, and
    `warning` what is doubtful about the answer, such as a call that could not be read and was left in the text."""

    id: str
    index: int
    reason: FinishReason
    usage: Usage
    timings: Timings
    stop: str | None = None
    warning: str | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The request ended without a result."""

    id: str
    fault: Fault


class Embedded(msgspec.Struct, frozen=True, tag="embedded"):
    """What came of input `index`: one vector, or one for each of its tokens, or its score, as 32-bit floats one after
    the other, little-endian. `num_dropped` tokens are missing of it, as its request said."""

    id: str
    index: int
    num_tokens: int
    vectors: bytes
    num_dropped: int = 0


Event = Accepted | Echoed | TextDelta | ReasoningDelta | ToolCallDelta | Finished | Embedded | Failed
