"""The messages of a chat request: text out of parts, earlier calls and thoughts, and the roles that OpenAI renamed."""

import msgspec

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import Message, ToolCall
from shimmy.protocols.openai.wire import CalledFunction, ChatMessage, Part


def messages(given: list[ChatMessage]) -> list[Message]:
    """Raises `RequestError` naming the field."""
    # Function calls have no ids: a function's answer belongs to the last call of it.
    last_calls: dict[str, str] = {}
    converted = []
    for at, message in enumerate(given):
        converted.append(_message(at, message, last_calls))
        if message.function_call is not None:
            last_calls[message.function_call.name] = f"call_{at}"
    return converted


def content(field: str, content: str | list[Part] | None) -> str:
    if isinstance(content, list):
        return "".join(_text(f"{field}[{at}]", part) for at, part in enumerate(content))
    return content or ""


def _message(at: int, message: ChatMessage, last_calls: dict[str, str]) -> Message:
    text = content(f"messages[{at}].content", message.content)
    match message.role:
        case "developer":
            # OpenAI's newer name for a system message; templates know the older one.
            return Message("system", text, message.name)
        case "assistant":
            reasoning = message.reasoning_content or message.reasoning or None
            return Message("assistant", text, message.name, reasoning=reasoning, tool_calls=_calls(at, message))
        case "tool":
            return Message("tool", text, message.name, tool_call_id=message.tool_call_id)
        case "function":
            return Message("tool", text, message.name, tool_call_id=last_calls.get(message.name or ""))
        case role:
            return Message(role, text, message.name)


def _calls(at: int, message: ChatMessage) -> list[ToolCall]:
    calls = []
    for number, call in enumerate(message.tool_calls or []):
        field = f"messages[{at}].tool_calls[{number}]"
        if call.type not in (None, "function"):
            raise Unsupported(f"{field}.type: only functions are supported, not {call.type!r}", param=f"{field}.type")
        calls.append(ToolCall(call.id or f"call_{at}_{number}", call.function.name, _arguments(call.function)))
    if message.function_call is not None:
        function = message.function_call
        calls.append(ToolCall(f"call_{at}", function.name, _arguments(function)))
    return calls


def _arguments(function: CalledFunction) -> str:
    """Without any, a call has those of an empty object."""
    if isinstance(function.arguments, dict):
        return msgspec.json.encode(function.arguments).decode()
    return function.arguments or "{}"


def _text(field: str, part: Part) -> str:
    if part.type != "text":
        raise Unsupported(f"{field}.type: only text is supported, not {part.type!r}", param=f"{field}.type")
    if part.text is None:
        raise RequestError(f"{field}.text: this field is required", param=f"{field}.text")
    return part.text
