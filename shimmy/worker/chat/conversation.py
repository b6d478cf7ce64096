"""A chat as the variables of a template, in the form that this template wants, and rendered with them.

What a template has no place for is put where it has one; docs/templates.md says where. Knows no tokens.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import Chat, Message, Reasoning, Tool, ToolCall
from shimmy.worker.chat.capabilities import Capabilities

Instructions = Callable[[Sequence[Tool]], str | None]
# Where the text of the last message ends, for a moment.
_END = "\ue0f7shimmy-goes-on-here\ue0f8"
_SHORT_ID_CHARS = 9


def rendered(
    chat: Chat,
    capabilities: Capabilities,
    render: Callable[[dict[str, Any]], str],
    instructions: Instructions | None,
) -> str:
    """The prompt of a chat; `render` is the template. Raises `RequestError` naming what there is no place for."""
    of_template = variables(chat, capabilities, instructions)
    if not chat.continue_final:
        return render(of_template)
    _mark_end(chat.messages[-1] if chat.messages else None, of_template["messages"], capabilities)
    before, mark, _ = render(of_template | {"add_generation_prompt": False}).rpartition(_END)
    if not mark:
        raise _cannot_continue("the model's chat template changes the last message")
    return before


def variables(chat: Chat, capabilities: Capabilities, instructions: Instructions | None) -> dict[str, Any]:
    """What the template is rendered with, beside what is the same for every chat."""
    messages = list(chat.messages)
    tools = chat.tools if chat.tool_choice.mode != "none" else []
    if tools and not capabilities.shows_tools:
        messages = _told(messages, tools, instructions)
    if messages and messages[0].role == "system" and not capabilities.has_system_role:
        messages = _without_system(messages)
    return {
        "messages": _Turns(messages, capabilities).all(),
        "tools": [_tool(at, tool) for at, tool in enumerate(tools)] if tools else None,
        "documents": None,
        "add_generation_prompt": chat.add_generation_prompt,
        **_reasoning(chat.reasoning),
        **chat.template_kwargs,
    }


def _told(messages: list[Message], tools: list[Tool], instructions: Instructions | None) -> list[Message]:
    """With a system message about the tools, or more in the one there is."""
    text = instructions(tools) if instructions is not None else None
    if text is None:
        raise Unsupported("tools: the model's chat template has no place for them", param="tools")
    if messages and messages[0].role == "system":
        first = messages[0]
        return [msgspec.structs.replace(first, content=f"{first.content}\n\n{text}"), *messages[1:]]
    return [Message("system", text), *messages]


def _without_system(messages: list[Message]) -> list[Message]:
    """What the system message says begins the first message of the user."""
    system, rest = messages[0].content, messages[1:]
    if rest and rest[0].role == "user":
        first = msgspec.structs.replace(rest[0], content=f"{system}\n{rest[0].content}" if system else rest[0].content)
        return [first, *rest[1:]]
    return [Message("user", system), *rest]


def _reasoning(reasoning: Reasoning) -> dict[str, Any]:
    """As models call it; what nobody said is left to the template."""
    given: dict[str, Any] = {}
    if reasoning.enabled is not None:
        given |= {"enable_thinking": reasoning.enabled, "thinking": reasoning.enabled}
    if reasoning.effort is not None:
        given |= dict.fromkeys(("reasoning_effort", "reasoning_strength", "thinking_effort"), reasoning.effort)
    return given


def _tool(at: int, tool: Tool) -> dict[str, Any]:
    parameters = _object(tool.parameters, f"tools[{at}].function.parameters")
    # In the order in which templates are trained to see them.
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    if tool.description is None:
        del function["description"]
    return {"type": "function", "function": function}


def _object(text: str, field: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RequestError(f"{field}: must be the JSON text of an object", param=field)
    return value


class _Turns:
    """The messages as the template wants them."""

    def __init__(self, messages: Sequence[Message], capabilities: Capabilities) -> None:
        self._messages = messages
        self._capabilities = capabilities
        self._names = {call.id: call.name for message in messages for call in message.tool_calls}

    def all(self) -> list[dict[str, Any]]:
        return [self._turn(at, message) for at, message in enumerate(self._messages)]

    def _turn(self, at: int, message: Message) -> dict[str, Any]:
        if message.role == "tool":
            return self._result(message)
        turn = self._said(message.role, message.content)
        if message.name is not None:
            turn["name"] = message.name
        if message.reasoning and (key := self._capabilities.reasoning_key) is not None:
            turn[key] = message.reasoning
        if message.tool_calls:
            self._add_calls(at, message, turn)
        return turn

    def _said(self, role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if self._capabilities.wants_parts else text}

    def _add_calls(self, at: int, message: Message, turn: dict[str, Any]) -> None:
        capabilities = self._capabilities
        if not capabilities.shows_calls:
            text = "\n".join(_spelled(call, _field(at, number)) for number, call in enumerate(message.tool_calls))
            turn |= self._said(message.role, f"{message.content}\n{text}" if message.content else text)
            return
        turn["tool_calls"] = [self._call(call, _field(at, n)) for n, call in enumerate(message.tool_calls)]
        if not message.content and capabilities.wants_null_content:
            turn["content"] = None
        key = capabilities.reasoning_key
        if key in turn and message.content and capabilities.wants_thought_or_text:
            turn |= {key: f"{message.reasoning}\n\n{message.content}", "content": ""}

    def _call(self, call: ToolCall, field: str) -> dict[str, Any]:
        arguments = call.arguments if self._capabilities.wants_argument_text else _object(call.arguments, field)
        function = {"name": call.name, "arguments": arguments}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _result(self, message: Message) -> dict[str, Any]:
        name = message.name or self._names.get(message.tool_call_id or "")
        if not self._capabilities.shows_results:
            result = {"name": name, "content": message.content} if name else {"content": message.content}
            text = f"<tool_response>\n{json.dumps(result, ensure_ascii=False)}\n</tool_response>"
            return self._said("user", text)
        turn = self._said("tool", message.content)
        if message.tool_call_id is not None:
            turn["tool_call_id"] = self._id(message.tool_call_id)
        if name is not None:
            turn["name"] = name
        return turn

    def _id(self, id: str) -> str:
        if not self._capabilities.wants_short_ids or (len(id) == _SHORT_ID_CHARS and id.isalnum()):
            return id
        return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT_ID_CHARS]


def _field(at: int, number: int) -> str:
    return f"messages[{at}].tool_calls[{number}].function.arguments"


def _spelled(call: ToolCall, field: str) -> str:
    """A call in the text, for templates that do not know calls: as most models write them."""
    function = {"name": call.name, "arguments": _object(call.arguments, field)}
    return f"<tool_call>\n{json.dumps(function, ensure_ascii=False)}\n</tool_call>"


def _mark_end(last: Message | None, turns: list[dict[str, Any]], capabilities: Capabilities) -> None:
    if last is None or last.role != "assistant":
        raise _cannot_continue("the last message is not the assistant's")
    if last.tool_calls:
        raise _cannot_continue("the last message has calls")
    turn = turns[-1]
    if not last.content and last.reasoning:
        if capabilities.reasoning_key is None:
            raise _cannot_continue("the model's chat template has no place for reasoning")
        turn[capabilities.reasoning_key] = last.reasoning + _END
    elif capabilities.wants_parts:
        turn["content"] = [{"type": "text", "text": last.content + _END}]
    else:
        turn["content"] = last.content + _END


def _cannot_continue(why: str) -> RequestError:
    return RequestError(f"continue_final_message: {why}", param="continue_final_message")
