"""The tools of a request, and whether they may or must be called."""

import re

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.raw_json import ABSENT
from shimmy.core.request import Tool, ToolChoice, ToolMode
from shimmy.core.tool_schema import check_total, schema_text
from shimmy.protocols.anthropic.wire import CountRequest, ToolField

_MODES: dict[str, ToolMode] = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def tools(body: CountRequest) -> list[Tool]:
    """Raises `RequestError` naming the field of what is no tool of the client's, has a name twice, or is too large."""
    found: dict[str, Tool] = {}
    for at, tool in enumerate(body.tools or []):
        given = _tool(f"tools[{at}]", tool)
        if given.name in found:
            raise RequestError(f"tools[{at}].name: there are two tools {given.name!r}", param=f"tools[{at}].name")
        found[given.name] = given
    check_total("tools", list(found.values()))
    return list(found.values())


def tool_choice(body: CountRequest, tools: list[Tool]) -> ToolChoice:
    """Raises `RequestError` naming the field, for a tool that is not there, too."""
    choice = body.tool_choice
    if choice is None:
        return ToolChoice()
    mode = _MODES[choice.type]
    if mode == "required" and not tools:
        raise RequestError("tool_choice: there are no tools to call", param="tool_choice")
    if choice.type != "tool":
        return ToolChoice(mode, parallel=not choice.disable_parallel_tool_use)
    if choice.name is None:
        raise RequestError("tool_choice.name: this field is required", param="tool_choice.name")
    if choice.name not in {tool.name for tool in tools}:
        raise RequestError(f"tool_choice.name: there is no tool {choice.name[:80]!r}", param="tool_choice.name")
    # A tool that is named is called once.
    return ToolChoice(mode, choice.name, parallel=False)


def _tool(field: str, tool: ToolField) -> Tool:
    if tool.type not in (None, "custom"):
        raise Unsupported(
            f"{field}.type: {tool.type[:40]!r} is a tool of Anthropic's, which this server does not have; only tools "
            "with an input_schema of their own are supported",
            param=f"{field}.type",
        )
    if tool.name is None or not _NAME.fullmatch(tool.name):
        raise RequestError(
            f"{field}.name: 1 to 128 letters, digits, '_', '-', '.' or ':' are required", param=f"{field}.name"
        )
    if tool.input_schema == ABSENT:
        raise RequestError(f"{field}.input_schema: this field is required", param=f"{field}.input_schema")
    parameters = schema_text(f"{field}.input_schema", bytes(tool.input_schema))
    return Tool(tool.name, tool.description, parameters, strict=bool(tool.strict))
