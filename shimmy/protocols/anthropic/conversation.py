"""System prompt and content blocks as messages of ours. Nothing is ever fetched: what is no text is refused."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import Message, ToolCall
from shimmy.protocols.anthropic.wire import Block, Blocks, CountRequest, MessageField

# A block and what the client calls it.
Named = tuple[str, Block]
_ROLE_TYPES = {
    "system": ("text",),
    "user": ("text", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
}
_RESULT_TYPES = ("text",)


def messages(body: CountRequest) -> list[Message]:
    """Raises `RequestError` naming the block. Turns of one role that follow each other are one, as for Anthropic."""
    converted = []
    if body.system:
        converted.append(Message("system", _text(_checked("system", body.system, _ROLE_TYPES["system"]))))
    for role, group in groupby(enumerate(body.messages), lambda turn: turn[1].role):
        blocks = [block for at, message in group for block in _blocks(at, message)]
        converted += _turn(role, blocks)
    return converted


def is_prefilled(body: CountRequest) -> bool:
    """Whether the answer goes on from what the last message says."""
    return body.messages[-1].role == "assistant"


def _blocks(at: int, message: MessageField) -> list[Named]:
    return list(_checked(f"messages[{at}].content", message.content, _ROLE_TYPES[message.role]))


def _checked(field: str, content: str | list[Block], types: tuple[str, ...]) -> Iterator[Named]:
    """The blocks, with their names; a text is one block of itself."""
    if isinstance(content, str):
        yield field, Block("text", text=content)
        return
    for at, block in enumerate(content):
        if block.type not in types:
            raise Unsupported(
                f"{field}[{at}].type: {block.type[:40]!r} blocks are not supported here, only {', '.join(types)}",
                param=f"{field}[{at}].type",
            )
        yield f"{field}[{at}]", block


def _turn(role: str, blocks: list[Named]) -> Iterator[Message]:
    """Results of tools come before what a user says beside them: they belong to the calls in the turn before."""
    if role == "assistant":
        yield _answer(blocks)
        return
    results = [_result(field, block) for field, block in blocks if block.type == "tool_result"]
    yield from results
    said = [(field, block) for field, block in blocks if block.type == "text"]
    if said or not results:
        yield Message(role, _text(said))


def _answer(blocks: list[Named]) -> Message:
    """What the model said is put together as it was written. Thoughts that were redacted cannot be read."""
    calls = [_call(field, block) for field, block in blocks if block.type == "tool_use"]
    thoughts = [_given(field, "thinking", block.thinking) for field, block in blocks if block.type == "thinking"]
    text = _text([(field, block) for field, block in blocks if block.type == "text"], between="")
    return Message("assistant", text, reasoning="\n".join(thoughts) or None, tool_calls=calls)


def _call(field: str, block: Block) -> ToolCall:
    id, name = _given(field, "id", block.id), _given(field, "name", block.name)
    return ToolCall(id, name, msgspec.json.encode(_given(field, "input", block.input)).decode())


def _result(field: str, block: Block) -> Message:
    id = _given(field, "tool_use_id", block.tool_use_id)
    text = _text(_checked(f"{field}.content", _content(f"{field}.content", block.content), _RESULT_TYPES))
    # No template has a mark for it.
    return Message("tool", f"Error: {text}" if block.is_error else text, tool_call_id=id)


def _content(field: str, content: Any) -> str | list[Block]:
    """Other blocks have other contents, so that this one is not checked while it is decoded."""
    if content is None:
        return ""
    try:
        return msgspec.convert(content, str | Blocks)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        field = f"{field}{path.rstrip('`')}"
        raise RequestError(f"{field}: {what}", param=field) from None


def _text(blocks: Iterator[Named] | list[Named], between: str = "\n") -> str:
    return between.join(_given(field, "text", block.text) for field, block in blocks)


def _given(field: str, name: str, value: Any) -> Any:
    if value is None:
        raise RequestError(f"{field}.{name}: this field is required", param=f"{field}.{name}")
    return value
