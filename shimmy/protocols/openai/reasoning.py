"""How the model is to think: the fields that OpenAI, llama-server, vLLM and others have for it, as one `Reasoning`."""

from collections.abc import Iterator
from typing import Any

from shimmy.core.errors import RequestError
from shimmy.core.request import Reasoning
from shimmy.protocols.openai.wire import ChatRequest

# Of templates that can be told to think or not.
_SWITCHES = ("enable_thinking", "thinking")


def reasoning(body: ChatRequest) -> Reasoning:
    """Raises `RequestError` for fields that contradict each other."""
    effort = _only(_efforts(body))
    enabled = _only(_switches(body, effort))
    budget = _only(_budgets(body))
    if enabled is None:
        enabled = False if budget == 0 else asks_for_thoughts(effort)
    return Reasoning(
        enabled=enabled,
        effort=None if effort == "none" else effort,
        budget_tokens=None if budget is None or budget < 0 else budget,
        is_raw=body.reasoning_format == "none",
    )


def asks_for_thoughts(effort: str | None) -> bool | None:
    """An effort switches on what is off by default, as in the templates of DeepSeek V3.1 and QwQ. None leaves that to
    the template; "none" is not asked here."""
    return None if effort in (None, "minimal") else True


def is_hidden(body: ChatRequest) -> bool:
    """Whether the thoughts are left out of the answer."""
    return body.include_reasoning is False or bool(body.reasoning and body.reasoning.exclude)


def _efforts(body: ChatRequest) -> Iterator[tuple[str, str | None]]:
    yield "reasoning_effort", body.reasoning_effort
    if body.reasoning:
        yield "reasoning.effort", body.reasoning.effort


def _switches(body: ChatRequest, effort: str | None) -> Iterator[tuple[str, bool | None]]:
    yield "reasoning_effort", False if effort == "none" else None
    yield "enable_thinking", body.enable_thinking
    if body.reasoning:
        yield "reasoning.enabled", body.reasoning.enabled
    if body.thinking and body.thinking.type != "adaptive":
        yield "thinking.type", body.thinking.type == "enabled"
    for name in _SWITCHES:
        value = (body.chat_template_kwargs or {}).get(name)
        if isinstance(value, bool):
            yield f"chat_template_kwargs.{name}", value


def _budgets(body: ChatRequest) -> Iterator[tuple[str, int | None]]:
    for field in ("thinking_budget_tokens", "thinking_token_budget", "thinking_budget"):
        yield field, getattr(body, field)
    if body.reasoning:
        yield "reasoning.max_tokens", body.reasoning.max_tokens
    if body.thinking:
        yield "thinking.budget_tokens", body.thinking.budget_tokens


def _only(given: Iterator[tuple[str, Any]]) -> Any:
    """What one field says, or several alike; None where none does."""
    first: tuple[str, Any] | None = None
    for field, value in given:
        if value is None:
            continue
        if first is not None and first[1] != value:
            raise RequestError(f"{field}: {first[0]} already says {first[1]!r}", param=field)
        first = first or (field, value)
    return first[1] if first else None
