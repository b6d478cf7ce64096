"""A request for a response as a `Generation`, and what is refused of it."""

import re
from collections.abc import Iterator

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import Chat, Constraint, Generation, Reasoning
from shimmy.protocols.openai.constraint import constraint, schema
from shimmy.protocols.openai.generation import (
    common,
    refuse,
    token_limit,
    truncation,
)
from shimmy.protocols.openai.reasoning import asks_for_thoughts
from shimmy.protocols.openai.responses.items import messages
from shimmy.protocols.openai.responses.tools import fields_of_functions, tools_of
from shimmy.protocols.openai.responses.wire import ResponsesRequest, TextFormat
from shimmy.protocols.openai.template import template_fields

ENCRYPTED = "reasoning.encrypted_content"
# The others are about tools that are refused, or images: there is nothing that they could include.
_INCLUDABLE = {
    ENCRYPTED,
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
}
_STATEFUL = "nothing is stored: send the whole conversation as input"


def generation(body: ResponsesRequest, id: str, tenant: str) -> Generation:
    """Raises `RequestError` naming the field."""
    _check(body)
    return Generation(
        id=id,
        model=body.model,
        prompt=chat_of(body),
        max_tokens=token_limit(body),
        logprobs=(body.top_logprobs or 0) if body.tells_tokens else None,
        constraint=constraint(body, _of_format(body)),
        truncation=truncation(body, drops_turns=body.truncation == "auto"),
        **common(body, tenant),
    )


def chat_of(body: ResponsesRequest) -> Chat:
    tools, choice = tools_of(body)
    return Chat(
        messages(body.instructions, body.input),
        tools=tools,
        tool_choice=choice,
        reasoning=_reasoning(body),
        **template_fields(body.chat_template_kwargs, None, None),
    )


def in_our_words(error: RequestError, body: ResponsesRequest) -> RequestError:
    """What the worker says of a chat, in the names that its fields have in `body`."""
    if error.param is None:
        return error
    param = error.param.replace(".function.", ".")
    param = f"input{param[len('messages') :]}" if param.startswith("messages") else param
    if tool := re.match(r"tools\[(\d+)\]", param):
        param = fields_of_functions(body)[int(tool[1])] + param[tool.end() :]
    message = error.message.replace(f"{error.param}:", f"{param}:", 1)
    return type(error)(message, param=param, **error.details)


def _check(body: ResponsesRequest) -> None:
    for field in ("previous_response_id", "conversation"):
        if getattr(body, field) is not None:
            raise Unsupported(f"{field} is not supported, since {_STATEFUL}", param=field)
    if body.background:
        raise Unsupported("background is not supported: nothing is stored that could be asked for", param="background")
    if body.prompt is not None:
        raise Unsupported("prompt: there are no stored prompts", param="prompt")
    refuse({"context_management": body.context_management, "n": None if body.n == 1 else body.n})
    for at, name in enumerate(body.include or []):
        if name not in _INCLUDABLE:
            raise RequestError(f"include[{at}]: there is no {name[:80]!r}", param=f"include[{at}]")


def _of_format(body: ResponsesRequest) -> Iterator[Constraint]:
    match body.text.format if body.text is not None else None:
        case None | TextFormat("text"):
            return
        case TextFormat("json_object"):
            yield Constraint("json_object", "", "text.format")
        case TextFormat("json_schema") as format:
            yield from schema("text.format.schema", format.schema, required=True)
        case other:
            message = f"text.format.type: there is no {other.type[:40]!r}, only text, json_object, json_schema"
            raise Unsupported(message, param="text.format.type")


def _reasoning(body: ResponsesRequest) -> Reasoning:
    given = body.reasoning
    if given is None:
        return Reasoning()
    if given.effort == "none" and given.enabled:
        raise RequestError("reasoning.enabled: reasoning.effort already says 'none'", param="reasoning.enabled")
    enabled = False if given.effort == "none" or given.max_tokens == 0 else given.enabled
    effort = None if given.effort == "none" else given.effort
    if enabled is None:
        enabled = asks_for_thoughts(effort)
    budget = None if given.max_tokens is None or given.max_tokens < 0 else given.max_tokens
    return Reasoning(enabled, effort, budget)
