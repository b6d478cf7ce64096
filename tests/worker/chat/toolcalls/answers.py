"""Tools, and what a dialect makes of an answer."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from shimmy.core.request import Tool
from shimmy.worker.chat.parts import CallArguments, CallBegin, Content, Doubt, Part, Thought
from shimmy.worker.chat.toolcalls import Dialect


def tool(name: str, /, *required: str, strict: bool = False, **properties: Any) -> Tool:
    schema = {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
    return Tool(name, f"It is {name}.", json.dumps(schema), strict)


STRING, INTEGER = {"type": "string"}, {"type": "integer"}
TOOLS = [
    tool("get_weather", "city", city=STRING, days=INTEGER, unit={"enum": ["C", "F"]}),
    tool("python", "code", code=STRING),
    tool("now"),
    tool(
        "plan",
        "items",
        items={"type": "array", "items": {"type": "object", "properties": {"at": {"type": "number"}, "what": STRING}}},
        note={"type": ["string", "null"]},
        done={"type": "boolean"},
    ),
]


class Call(NamedTuple):
    name: str
    arguments: str
    call_id: str | None = None


class Answer(NamedTuple):
    content: str = ""
    calls: tuple[Call, ...] = ()
    thought: str = ""
    doubts: tuple[str, ...] = ()


def merged(parts: Iterable[Part]) -> list[Part]:
    """With the text of neighbours of one kind put together."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Content | Thought | CallArguments) and type(part) is type(last):
            found[-1] = part._replace(text=last.text + part.text)
        else:
            found.append(part)
    return found


def read(
    dialect: Dialect,
    pieces: Sequence[str],
    tools: Sequence[Tool] = tuple(TOOLS),
    parallel: bool = True,
    is_cut: bool = False,
) -> list[Part]:
    parser = dialect.parser(tools, parallel)
    parts = [part for piece in pieces for part in parser.push(piece)]
    return merged([*parts, *parser.finish(is_cut=is_cut)])


def answer(parts: Iterable[Part]) -> Answer:
    content, thought, doubts = "", "", []
    calls: list[Call] = []
    for part in parts:
        match part:
            case Content(text):
                content += text
            case Thought(text):
                thought += text
            case CallBegin(call, name, call_id):
                assert call == len(calls)
                calls.append(Call(name, "", call_id))
            case CallArguments(call, text):
                calls[call] = calls[call]._replace(arguments=calls[call].arguments + text)
            case Doubt(reason):
                doubts.append(reason)
    return Answer(content, tuple(calls), thought, tuple(doubts))


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]
