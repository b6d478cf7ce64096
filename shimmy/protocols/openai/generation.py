"""What chat and plain completions do alike with a request before it becomes a `Generation`."""

import os
from collections.abc import Mapping
from typing import Any

from shimmy.core.errors import Unsupported
from shimmy.core.request import Sampling, Speculative
from shimmy.protocols.openai.wire import CommonFields

_SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "seed",
)


def sampling(body: CommonFields) -> Sampling:
    given: dict[str, Any] = {name: getattr(body, name) for name in _SAMPLING}
    if given["repetition_penalty"] is None:
        given["repetition_penalty"] = body.repeat_penalty
    return Sampling(**{name: value for name, value in given.items() if value is not None})


def scheduling(body: CommonFields, tenant: str) -> dict[str, Any]:
    """The fields of a `Generation` that say whose it is, and when it should run."""
    return {
        "priority": body.priority or 0,
        "tenant": tenant,
        "timeout_seconds": body.timeout,
        "queue_seconds": body.queue_timeout,
    }


def speculative(body: CommonFields) -> Speculative:
    return Speculative(body.speculative_type, body.speculative_n_max)


def stop_strings(body: CommonFields) -> list[str]:
    """An empty string stops nothing."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return [string for string in stop if string]


def refuse(unhonoured: Mapping[str, Any]) -> None:
    """Refuse what would change the answer and cannot be honoured: any of these fields that says more than "no"."""
    for field, value in unhonoured.items():
        # 0 is a "yes" for completions' logprobs.
        if value is not None and value is not False and value not in ([], {}, ""):
            raise Unsupported(f"{field} is not supported", param=field)


def new_id(prefix: str) -> str:
    return f"{prefix}-{os.urandom(12).hex()}"
