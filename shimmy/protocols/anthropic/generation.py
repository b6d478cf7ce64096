"""A request's body as a `Generation`, and what of it makes the prompt as a `Chat`."""

import os
from collections.abc import Iterator

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.raw_json import raw_text
from shimmy.core.request import Chat, Constraint, Generation, Reasoning, Sampling
from shimmy.protocols.anthropic.conversation import is_prefilled, messages
from shimmy.protocols.anthropic.tools import tool_choice, tools
from shimmy.protocols.anthropic.wire import CountRequest, FormatField, MessagesRequest

_SAMPLING = [name for name in Sampling.__struct_fields__ if name in MessagesRequest.__struct_fields__]


def generation(body: MessagesRequest, tenant: str) -> Generation:
    return Generation(
        id=f"msg_{os.urandom(12).hex()}",
        model=body.model,
        prompt=chat(body),
        sampling=Sampling.of(**{name: getattr(body, name) for name in _SAMPLING}),
        max_tokens=body.max_tokens,
        stop=[string for string in body.stop_sequences or [] if string],
        constraint=_constraint(body),
        priority=body.priority or 0,
        tenant=tenant,
        timeout_seconds=body.timeout,
        queue_seconds=body.queue_timeout,
        lora=body.lora,
    )


def chat(body: CountRequest) -> Chat:
    """Raises `RequestError` naming the field."""
    for field in ("mcp_servers", "container"):
        if getattr(body, field):
            raise Unsupported(f"{field}: not supported; tools are run by the client", param=field)
    given, prefilled = tools(body), is_prefilled(body)
    return Chat(
        messages(body),
        tools=given,
        tool_choice=tool_choice(body, given),
        reasoning=_reasoning(body),
        continue_final=prefilled,
        add_generation_prompt=not prefilled,
    )


def _reasoning(body: CountRequest) -> Reasoning:
    """Without `thinking` there is none, as for Anthropic: an answer begins with what was asked for."""
    effort = body.output_config.effort if body.output_config else None
    thinking = body.thinking
    if thinking is None or thinking.type == "disabled":
        return Reasoning(enabled=False, effort=effort)
    enabled = True if thinking.type == "enabled" else None
    return Reasoning(enabled=enabled, effort=effort, budget_tokens=thinking.budget_tokens)


def _constraint(body: CountRequest) -> Constraint | None:
    given = dict(_formats(body))
    if len(given) == 2:
        field = "output_format"
        raise RequestError(f"{field}: there is already output_config.format; choose one", param=field)
    for field, format in given.items():
        return Constraint("json_schema", raw_text(field, format.schema), field)
    return None


def _formats(body: CountRequest) -> Iterator[tuple[str, FormatField]]:
    if body.output_config and body.output_config.format:
        yield "output_config.format.schema", body.output_config.format
    if body.output_format:
        yield "output_format.schema", body.output_format
