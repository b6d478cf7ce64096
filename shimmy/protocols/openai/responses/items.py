"""The input of a response as messages: what one turn of the assistant's was made of comes together again."""

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import Message, ToolCall
from shimmy.protocols.openai.responses.tools import full_name
from shimmy.protocols.openai.responses.wire import Item, Part

_TEXTS = {"message": ("input_text", "output_text", "text"), "reasoning": ("reasoning_text", "summary_text")}
_SEAL = "shimmy."


def sealed(thoughts: str) -> str:
    """Thoughts as clients send them back unseen. No secret is kept: they are in the answer as well."""
    from binascii import b2a_base64

    return _SEAL + b2a_base64(thoughts.encode(), newline=False).decode()


def messages(instructions: str | None, given: str | list[Item]) -> list[Message]:
    """Raises `RequestError` naming the field. What system messages begin with is one of them: many templates take no
    second one."""
    converted = [Message("system", instructions)] if instructions else []
    if isinstance(given, str):
        return [*converted, Message("user", given)]
    turn = _Turn()
    for at, item in enumerate(given):
        if (message := _message(f"input[{at}]", item, turn)) is not None:
            if turn.has_begun:
                converted.append(turn.message())
                turn = _Turn()
            if message.role == "system" and len(converted) == 1 and converted[0].role == "system":
                message = Message("system", f"{converted.pop().content}\n\n{message.content}")
            converted.append(message)
    return [*converted, turn.message()] if turn.has_begun else converted


class _Turn:
    """What the assistant thought, said and called between two messages of others."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[ToolCall] = []
        self.has_begun = False

    def message(self) -> Message:
        text, reasoning = "".join(self.texts), "\n".join(self.thoughts) or None
        return Message("assistant", text, reasoning=reasoning, tool_calls=self.calls)


def _message(field: str, item: Item, turn: _Turn) -> Message | None:
    """That of an item that is not the assistant's; those that are go into its turn."""
    match item.type:
        case "message" if item.role is None:
            raise _required(f"{field}.role")
        case "message" if item.role == "assistant":
            turn.texts.append(_text(f"{field}.content", item.content))
        case "message":
            role = "system" if item.role == "developer" else str(item.role)
            return Message(role, _text(f"{field}.content", item.content))
        case "function_call":
            turn.calls.append(_call(field, item))
        case "function_call_output":
            if item.call_id is None:
                raise _required(f"{field}.call_id")
            return Message("tool", _text(f"{field}.output", item.output), tool_call_id=item.call_id)
        case "reasoning":
            turn.thoughts.append(_thoughts(field, item))
        case "item_reference":
            message = f"{field}.type: nothing is stored that an item_reference could mean; send the item itself"
            raise Unsupported(message, param=f"{field}.type")
        case other:
            raise Unsupported(f"{field}.type: {other[:40]!r} is not supported", param=f"{field}.type")
    turn.has_begun = True
    return None


def _call(field: str, item: Item) -> ToolCall:
    for name in ("call_id", "name"):
        if getattr(item, name) is None:
            raise _required(f"{field}.{name}")
    return ToolCall(item.call_id or "", full_name(item.namespace, item.name or ""), item.arguments or "{}")


def _thoughts(field: str, item: Item) -> str:
    """In the clear, or as they were sealed; else what there is of a summary."""
    if item.content:
        return _text(f"{field}.content", item.content, "reasoning")
    if item.encrypted_content and item.encrypted_content.startswith(_SEAL):
        from binascii import a2b_base64

        try:
            return a2b_base64(item.encrypted_content.removeprefix(_SEAL), strict_mode=True).decode()
        except ValueError:
            where = f"{field}.encrypted_content"
            raise RequestError(f"{where}: not as it was sent", param=where) from None
    return _text(f"{field}.summary", item.summary, "reasoning")


def _text(field: str, content: str | list[Part] | None, kind: str = "message") -> str:
    if isinstance(content, list):
        return "".join(_part(f"{field}[{at}]", part, kind) for at, part in enumerate(content))
    return content or ""


def _part(field: str, part: Part, kind: str) -> str:
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    if part.type not in _TEXTS[kind]:
        raise Unsupported(f"{field}.type: only text is supported, not {part.type[:40]!r}", param=f"{field}.type")
    if part.text is None:
        raise _required(f"{field}.text")
    return part.text


def _required(field: str) -> RequestError:
    return RequestError(f"{field}: this field is required", param=field)
