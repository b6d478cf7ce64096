"""A chat as the variables of a template, in the form that this template wants, and rendered with them.

What a template has no place for is put where it has one; docs/templates.md says where. Knows no tokens.
"""

import json
from collections.abc import Callable, Iterator, Sequence
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
    if _has_parallel_calls(messages) and capabilities.shows_calls and not capabilities.shows_parallel_calls:
        messages = list(_one_by_one(messages))
    return {
        "messages": _Turns(messages, capabilities, _fields(chat.messages)).all(),
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


def _has_parallel_calls(messages: list[Message]) -> bool:
    return any(len(message.tool_calls) > 1 for message in messages)


def _one_by_one(messages: list[Message]) -> Iterator[Message]:
    """Several calls of one message as one after the other, each with its result, which follows the message: some
    clients use the same ids again for later calls."""
    moved = set()
    for at, message in enumerate(messages):
        if len(message.tool_calls) < 2:
            if id(message) not in moved:
                yield message
            continue
        results = {result.tool_call_id: result for result in _results(messages, at + 1)}
        for number, call in enumerate(message.tool_calls):
            said = {} if number == 0 else {"content": "", "reasoning": None}
            yield msgspec.structs.replace(message, tool_calls=[call], **said)
            if (result := results.get(call.id)) is not None:
                moved.add(id(result))
                yield result


def _results(messages: list[Message], at: int) -> Iterator[Message]:
    while at < len(messages) and messages[at].role == "tool":
        yield messages[at]
        at += 1


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

    def __init__(self, messages: Sequence[Message], capabilities: Capabilities, fields: dict[int, str]) -> None:
        """`fields` are what clients call the arguments of each call, by its identity."""
        self._messages = messages
        self._fields = fields
        self._capabilities = capabilities
        self._names = {call.id: call.name for message in messages for call in message.tool_calls}

    def all(self) -> list[dict[str, Any]]:
        turns: list[dict[str, Any]] = []
        for at, message in enumerate(self._messages):
            if message.role == "tool" and not self._capabilities.shows_results:
                self._add_told_result(at, message, turns)
            elif message.role == "tool":
                turns.append(self._result(message))
            else:
                turns += self._said(message)
        return turns

    def _said(self, message: Message) -> list[dict[str, Any]]:
        """One turn, or two where a turn with calls says nothing else."""
        capabilities, calls = self._capabilities, message.tool_calls
        if not calls:
            return [self._turn(message, message.content)]
        if not capabilities.shows_calls:
            spelled = [_spelled(call, self._fields[id(call)]) for call in calls]
            return [self._turn(message, "\n".join([message.content, *spelled] if message.content else spelled))]
        shown = {"tool_calls": [self._call(call) for call in calls]}
        if capabilities.wants_null_content:
            said = [self._turn(message, message.content)] if message.content else []
            return [*said, {"role": message.role, "content": None, **shown}]
        turn = self._turn(message, message.content) | shown
        if message.content and message.reasoning and capabilities.wants_thought_or_text:
            assert capabilities.reasoning_key is not None
            turn |= {capabilities.reasoning_key: f"{message.reasoning}\n\n{message.content}", "content": ""}
        return [turn]

    def _turn(self, message: Message, text: str) -> dict[str, Any]:
        capabilities = self._capabilities
        turn = {"role": message.role, "content": _content(text, capabilities.wants_parts)}
        if message.name is not None:
            turn["name"] = message.name
        if not message.reasoning:
            return turn
        if capabilities.thinks_in_parts:
            turn["content"] = [{"type": "thinking", "thinking": message.reasoning}, *_content(text, True)]
        elif capabilities.reasoning_key is not None:
            turn[capabilities.reasoning_key] = message.reasoning
        return turn

    def _call(self, call: ToolCall) -> dict[str, Any]:
        as_text = self._capabilities.wants_argument_text
        arguments = call.arguments if as_text else _object(call.arguments, self._fields[id(call)])
        function = {"name": call.name, "arguments": arguments}
        return {"id": self._id(call.id), "type": "function", "function": function}

    def _result(self, message: Message) -> dict[str, Any]:
        turn = {"role": "tool", "content": _content(message.content, self._capabilities.wants_parts)}
        if message.tool_call_id is not None:
            turn["tool_call_id"] = self._id(message.tool_call_id)
        if (name := self._name_of(message)) is not None:
            turn["name"] = name
        return turn

    def _add_told_result(self, at: int, message: Message, turns: list[dict[str, Any]]) -> None:
        """As something that the user says, all results of one turn together."""
        name = self._name_of(message)
        result = {"name": name, "content": message.content} if name else {"content": message.content}
        text = f"<tool_response>\n{json.dumps(result, ensure_ascii=False)}\n</tool_response>"
        if at and self._messages[at - 1].role == "tool":
            text = f"{_text(turns.pop()['content'])}\n{text}"
        turns.append({"role": "user", "content": _content(text, self._capabilities.wants_parts)})

    def _name_of(self, message: Message) -> str | None:
        return message.name or self._names.get(message.tool_call_id or "")

    def _id(self, id: str) -> str:
        if not self._capabilities.wants_short_ids or (len(id) == _SHORT_ID_CHARS and id.isalnum()):
            return id
        # OpenSSL, which few templates need.
        import hashlib

        return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:_SHORT_ID_CHARS]


def _content(text: str, in_parts: bool) -> Any:
    return [{"type": "text", "text": text}] if in_parts else text


def _text(content: Any) -> str:
    return "".join(part["text"] for part in content) if isinstance(content, list) else str(content)


def _fields(messages: list[Message]) -> dict[int, str]:
    """As the client sent them; where a message stands may change before it is rendered."""
    return {
        id(call): f"messages[{at}].tool_calls[{number}].function.arguments"
        for at, message in enumerate(messages)
        for number, call in enumerate(message.tool_calls)
    }


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
        if capabilities.thinks_in_parts:
            turn["content"] = [{"type": "thinking", "thinking": last.reasoning + _END}]
            return
        if capabilities.reasoning_key is None:
            raise _cannot_continue("the model's chat template has no place for reasoning")
        turn[capabilities.reasoning_key] = last.reasoning + _END
    elif isinstance(turn["content"], list):
        turn["content"][-1]["text"] += _END
    else:
        turn["content"] += _END


def _cannot_continue(why: str) -> RequestError:
    return RequestError(f"continue_final_message: {why}", param="continue_final_message")
