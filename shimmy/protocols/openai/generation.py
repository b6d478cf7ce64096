"""What chat and plain completions do alike with a request before it becomes a `Generation`."""

import os
from collections.abc import Mapping
from typing import Any

from shimmy.core.defaults import known_samplers, sampler_name
from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import MAX_BREAKER_CHARS, SAMPLER_ORDER, SamplerName, Sampling, Secret, Speculative, Truncation
from shimmy.protocols.openai.wire import CommonFields

# The first that is there holds.
_TOKEN_LIMITS = ("max_output_tokens", "max_completion_tokens", "max_tokens", "n_predict")
# As clients spell them; what they spell differently is in `sampling`.
_SAMPLING = [name for name in Sampling.__struct_fields__ if name in CommonFields.__struct_fields__]


def sampling(body: CommonFields) -> Sampling:
    """Raises `RequestError` for what no range of a single field can say."""
    given = {name: getattr(body, name) for name in _SAMPLING}
    if given["repetition_penalty"] is None:
        given["repetition_penalty"] = body.repeat_penalty
    given["samplers"] = _samplers(body.samplers)
    given["dry_sequence_breakers"] = _breakers(body.dry_sequence_breakers)
    given["bad_words"] = [word for word in body.bad_words or [] if word.strip()]
    return Sampling.of(**given)


def _samplers(names: list[str] | None) -> tuple[SamplerName, ...] | None:
    if names is None:
        return None
    for at, name in enumerate(names):
        if sampler_name(name) is None:
            field = f"samplers[{at}]"
            raise RequestError(f"{field}: there is no {name[:40]!r}, only {', '.join(SAMPLER_ORDER)}", param=field)
    return known_samplers(names)


def _breakers(breakers: list[str] | None) -> tuple[str, ...] | None:
    if breakers is None:
        return None
    if sum(map(len, breakers)) > MAX_BREAKER_CHARS:
        field = "dry_sequence_breakers"
        raise RequestError(f"{field}: more than {MAX_BREAKER_CHARS} characters in all", param=field)
    return tuple(breakers)


def token_limit(body: CommonFields, *, usual: int | None = None, least: int = 1) -> int | None:
    """How many tokens an answer may have, None for as many as there is room for; `usual` where no field says it, by
    whichever of its names. Raises `RequestError` for fewer than `least`, or than `min_tokens`."""
    names = (name for name in _TOKEN_LIMITS if getattr(body, name, None) is not None)
    if (field := next(names, None)) is None:
        limit = usual
    elif (limit := getattr(body, field)) == -1:
        return None
    elif limit < least:
        raise RequestError(f"{field}: expected {least} or more, or -1 for no limit", param=field)
    if body.min_tokens is not None and limit is not None and body.min_tokens > limit:
        raise RequestError(f"min_tokens: {body.min_tokens} are more than max_tokens, {limit}", param="min_tokens")
    return limit


def common(body: CommonFields, tenant: str) -> dict[str, Any]:
    """The fields of a `Generation` that every kind of body has alike: how tokens are chosen, what ends it, whose it is,
    when it should run, and what it may share, for which its adapters count. Raises `RequestError`."""
    return {
        "sampling": sampling(body),
        "stop": _stop_strings(body),
        "stop_tokens": body.stop_token_ids or [],
        "speculative": speculative(body),
        "priority": body.priority or 0,
        "tenant": tenant,
        "timeout_seconds": body.timeout,
        "queue_seconds": body.queue_timeout,
        "lora": body.lora,
        "encryption_key": Secret(body.encryption_key) if body.encryption_key is not None else None,
    }


def truncation(body: CommonFields, *, drops_turns: bool = False) -> Truncation | None:
    """None where nothing was asked for, so that nothing is ever cut."""
    count, side = body.truncate_prompt_tokens, body.truncation_side
    if not drops_turns:
        return token_truncation(count, side or "left", is_said=side is not None)
    if count is not None or side is not None:
        raise RequestError("truncation: it goes without truncate_prompt_tokens only", param="truncation")
    return Truncation("oldest_turns")


def token_truncation(count: int | None, side: str, *, is_said: bool) -> Truncation | None:
    """`is_said` tells a `side` that the client named from one that is usual."""
    if is_said and count is None:
        raise RequestError("truncation_side: it says nothing without truncate_prompt_tokens", param="truncation_side")
    if count is None:
        return None
    if count == 0:
        raise RequestError("truncate_prompt_tokens: nothing would be left with 0", param="truncate_prompt_tokens")
    return Truncation("last_tokens" if side == "right" else "first_tokens", count)


def speculative(body: CommonFields) -> Speculative:
    return Speculative(body.speculative_type, body.speculative_n_max)


def _stop_strings(body: CommonFields) -> list[str]:
    """An empty string stops nothing."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return [string for string in stop if string]


def refuse(unhonoured: Mapping[str, Any]) -> None:
    """Refuse what would change the answer and cannot be honoured: any of these fields that says more than "no"."""
    for field, value in unhonoured.items():
        if value is not None and value is not False and value not in ([], {}, ""):
            raise Unsupported(f"{field} is not supported", param=field)


def new_id(prefix: str) -> str:
    return f"{prefix}-{os.urandom(12).hex()}"
