"""The messages of a chat as ours. Ollama's calls need no ids: a result belongs to the next call of its tool."""

from typing import TYPE_CHECKING

import msgspec

from shimmy.core.request import Message, ToolCall
from shimmy.protocols.ollama.generation import refuse_images
from shimmy.protocols.ollama.wire import CalledFunction, ChatMessage

if TYPE_CHECKING:
    from shimmy.core.modelfile import Own


def with_own(own: "Own", messages: list[Message]) -> list[Message]:
    """A conversation with what the model has for the beginning of every one: its system prompt only where there is
    none, as in Ollama."""
    whole = [*(Message(turn.role, turn.content) for turn in own.messages), *messages]
    return [Message("system", own.system), *whole] if own.system and whole[0].role != "system" else whole


def messages(given: list[ChatMessage]) -> list[Message]:
    """Raises `RequestError` naming the field."""
    waiting: list[ToolCall] = []
    converted = []
    for at, message in enumerate(given):
        refuse_images(f"messages[{at}].images", message.images)
        text = message.content or ""
        if message.role == "assistant":
            calls = _calls(at, message)
            waiting += calls
            converted.append(Message("assistant", text, reasoning=message.thinking or None, tool_calls=calls))
        elif message.role == "tool":
            call_id = message.tool_call_id or _answered(waiting, message.tool_name)
            converted.append(Message("tool", text, message.tool_name or None, tool_call_id=call_id))
        else:
            converted.append(Message(message.role, text))
    return converted


def _calls(at: int, message: ChatMessage) -> list[ToolCall]:
    return [
        ToolCall(call.id or f"call_{at}_{number}", call.function.name, _arguments(call.function))
        for number, call in enumerate(message.tool_calls or [])
    ]


def _answered(waiting: list[ToolCall], name: str | None) -> str | None:
    """The id of the first call that a result of this tool can belong to, which then has its result."""
    for call in waiting:
        if not name or call.name == name:
            waiting.remove(call)
            return call.id
    return None


def _arguments(function: CalledFunction) -> str:
    if isinstance(function.arguments, dict):
        return msgspec.json.encode(function.arguments).decode()
    return function.arguments or "{}"
