"""What comes back while a request runs: the only currency between worker, server and protocols.

For each request: one `Accepted`, then per choice any number of `TextDelta` and exactly one `Finished`; or, at any
point, one `Failed`, which ends the whole request.
"""

from typing import Literal

import msgspec

from shimmy.core.errors import Fault

FinishReason = Literal["stop", "length"]


class Timings(msgspec.Struct, frozen=True):
    """Where the time went, in seconds of the worker's monotonic clock."""

    queue_seconds: float
    prefill_seconds: float
    decode_seconds: float


class Usage(msgspec.Struct, frozen=True):
    """Token counts of one choice; `completion_tokens` counts sampled tokens, the end-of-generation token excluded.
    `drafted_tokens` were computed on a guess, of which `accepted_tokens` were what was sampled then."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0


class Accepted(msgspec.Struct, frozen=True, tag="accepted"):
    """The prompt was rendered, tokenized and fits; from here on errors arrive mid-stream."""

    id: str
    prompt_tokens: int


class TextDelta(msgspec.Struct, frozen=True, tag="text"):
    """Some more text of choice `index`: whole characters, never empty, never part of a stop string."""

    id: str
    index: int
    text: str


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """Choice `index` is complete; nothing follows for it. `stop` is the stop string that ended it, if one did."""

    id: str
    index: int
    reason: FinishReason
    usage: Usage
    timings: Timings
    stop: str | None = None


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The request ended without a result."""

    id: str
    fault: Fault


Event = Accepted | TextDelta | Finished | Failed
