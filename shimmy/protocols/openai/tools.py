"""The tools of a chat request, whether they may or must be called, and OpenAI's older `functions`."""

from collections.abc import Iterable, Iterator

import msgspec

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.raw_json import ABSENT
from shimmy.core.request import Tool, ToolChoice, ToolMode
from shimmy.core.tool_schema import check_total, schema_text
from shimmy.protocols.openai.wire import AllowedTools, ChatRequest, Function, FunctionName, NamedTool

_MODES: tuple[ToolMode, ...] = ("none", "auto", "required")


def is_legacy(body: ChatRequest) -> bool:
    """Whether the answer is to have a `function_call`."""
    return bool(body.functions)


def tools(body: ChatRequest) -> list[Tool]:
    """Those that the model learns of. Raises `RequestError` naming the field of what is no tool, has a name twice, or
    is too large."""
    if body.functions and body.tools:
        raise RequestError("functions: there are already tools; choose one", param="functions")
    given = tools_of(_functions(body), "functions" if is_legacy(body) else "tools")
    if isinstance(body.tool_choice, NamedTool) and body.tool_choice.allowed_tools is not None:
        return _allowed(body.tool_choice.allowed_tools, given)
    return given


def tools_of(functions: Iterable[tuple[str, Function]], all_field: str) -> list[Tool]:
    """Of functions, each with what the client calls it; `all_field` is what it calls them all."""
    found: list[Tool] = []
    names: set[str] = set()
    for field, function in functions:
        if function.name in names:
            raise RequestError(f"{field}.name: there are two tools {function.name!r}", param=f"{field}.name")
        names.add(function.name)
        found.append(_tool(field, function))
    check_total(all_field, found)
    return found


def tool_choice(body: ChatRequest, tools: list[Tool]) -> ToolChoice:
    """Raises `RequestError` naming the field, for a tool that is not there, too."""
    if is_legacy(body):
        choice = chosen("function_call", body.function_call, ("none", "auto"))
        field, name_field, parallel = "function_call", "function_call.name", False
    else:
        choice = chosen("tool_choice", _named(body.tool_choice))
        field, name_field, parallel = "tool_choice", "tool_choice.function.name", body.parallel_tool_calls is not False
    return check_choice(choice, tools, field, name_field, parallel=parallel)


def check_choice(choice: ToolChoice, tools: list[Tool], field: str, name_field: str, *, parallel: bool) -> ToolChoice:
    """Raises `RequestError` for one that these tools leave nothing to."""
    if choice.mode == "required" and not tools:
        raise RequestError(f"{field}: there are no tools to call", param=field)
    if choice.name is not None and choice.name not in {tool.name for tool in tools}:
        raise RequestError(f"{name_field}: there is no tool {choice.name[:80]!r}", param=name_field)
    # A tool that is named is called once.
    return msgspec.structs.replace(choice, parallel=parallel and choice.name is None)


def _functions(body: ChatRequest) -> Iterator[tuple[str, Function]]:
    for at, function in enumerate(body.functions or []):
        yield f"functions[{at}]", function
    for at, tool in enumerate(body.tools or []):
        field = f"tools[{at}]"
        if tool.type != "function":
            raise Unsupported(
                f"{field}.type: only functions are supported, not {tool.type[:40]!r}", param=f"{field}.type"
            )
        if tool.function is None:
            raise RequestError(f"{field}.function: this field is required", param=f"{field}.function")
        yield f"{field}.function", tool.function


def _tool(field: str, function: Function) -> Tool:
    if function.parameters == ABSENT:
        return Tool(function.name, function.description, strict=bool(function.strict))
    parameters = schema_text(f"{field}.parameters", bytes(function.parameters))
    return Tool(function.name, function.description, parameters, strict=bool(function.strict))


def _allowed(allowed: AllowedTools, tools: list[Tool]) -> list[Tool]:
    """What a model does not know it does not call."""
    known, names = {tool.name for tool in tools}, set()
    for at, each in enumerate(allowed.tools):
        if each.type != "function" or each.function is None or each.function.name not in known:
            field = f"tool_choice.allowed_tools.tools[{at}]"
            name = each.function.name if each.function is not None else each.type
            raise RequestError(f"{field}: there is no tool {name[:80]!r}", param=field)
        names.add(each.function.name)
    return [tool for tool in tools if tool.name in names]


def _named(choice: str | NamedTool | None) -> str | FunctionName | None:
    if not isinstance(choice, NamedTool):
        return choice
    if choice.type == "allowed_tools":
        if choice.allowed_tools is None:
            raise RequestError("tool_choice.allowed_tools: this field is required", param="tool_choice.allowed_tools")
        return choice.allowed_tools.mode
    if choice.type != "function":
        raise Unsupported(
            f"tool_choice.type: only a function can be named, not {choice.type[:40]!r}", param="tool_choice.type"
        )
    if choice.function is None:
        raise RequestError("tool_choice.function: this field is required", param="tool_choice.function")
    return choice.function


def chosen(field: str, choice: str | FunctionName | None, modes: tuple[ToolMode, ...] = _MODES) -> ToolChoice:
    if choice is None:
        return ToolChoice()
    if isinstance(choice, FunctionName):
        return ToolChoice("required", choice.name)
    for mode in modes:
        if choice == mode:
            return ToolChoice(mode)
    raise RequestError(f"{field}: there is no {choice[:40]!r}, only {', '.join(modes)}, or a name", param=field)
