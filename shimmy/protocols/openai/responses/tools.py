"""The tools of a response: functions, alone or in namespaces, and those that are left out."""

from collections.abc import Iterator

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import MAX_TOOL_NAME_CHARS, MAX_TOOLS, Tool, ToolChoice
from shimmy.protocols.openai import tools
from shimmy.protocols.openai.responses.wire import FunctionTool, NamedTool, ResponsesRequest, ToolField
from shimmy.protocols.openai.tools import check_choice, chosen
from shimmy.protocols.openai.wire import Function

# A model may search the web, where it can, and need not: agents offer it with everything that they ask.
_LEFT_OUT = "web_search"


def tools_of(body: ResponsesRequest) -> tuple[list[Tool], ToolChoice]:
    """Raises `RequestError` naming the field."""
    found = tools.tools_of(_functions(body), "tools")
    if len(found) > MAX_TOOLS:
        raise RequestError(f"tools: more than {MAX_TOOLS} in all", param="tools")
    given = body.tool_choice
    if isinstance(given, NamedTool) and given.type == "allowed_tools":
        allowed = _allowed(given, {tool.name for tool in found})
        found = [tool for tool in found if tool.name in allowed]
        choice = ToolChoice(given.mode or "auto")
    elif isinstance(given, NamedTool):
        if given.type != "function":
            what = f"tool_choice.type: {given.type[:40]!r} is no function; there are no other tools"
            raise Unsupported(what, param="tool_choice.type")
        if given.name is None:
            raise RequestError("tool_choice.name: this field is required", param="tool_choice.name")
        choice = ToolChoice("required", given.name)
    else:
        choice = chosen("tool_choice", given)
    parallel = body.parallel_tool_calls is not False
    return found, check_choice(choice, found, "tool_choice", "tool_choice.name", parallel=parallel)


def left_out(body: ResponsesRequest) -> list[str]:
    """The fields of tools that the model does not learn of."""
    return [f"tools[{at}]" for at, tool in enumerate(body.tools or []) if _is_left_out(tool)]


def fields_of_functions(body: ResponsesRequest) -> list[str]:
    """Where each of the tools that the model learns of stands in the request."""
    return [field for field, _ in _functions(body)]


def full_name(namespace: str | None, name: str) -> str:
    """What the model calls it."""
    return f"{namespace}__{name}" if namespace else name


def namespaced(body: ResponsesRequest) -> dict[str, dict[str, str]]:
    """What clients call the functions in namespaces, by what the model does."""
    spaces = [tool for tool in body.tools or [] if tool.type == "namespace"]
    return {
        full_name(space.name, function.name or ""): {"name": function.name or "", "namespace": space.name or ""}
        for space in spaces
        for function in space.tools or []
    }


def _is_left_out(tool: ToolField) -> bool:
    return tool.type.startswith(_LEFT_OUT)


def _allowed(given: NamedTool, known: set[str]) -> set[str]:
    """Only those are shown to the model: what it does not know it does not call."""
    names = set()
    for at, tool in enumerate(given.tools or []):
        field = f"tool_choice.tools[{at}]"
        if tool.type != "function" or tool.name not in known:
            name = (tool.name or tool.type)[:80]
            raise RequestError(f"{field}: there is no tool {name!r}", param=field)
        names.add(tool.name)
    return names


def _functions(body: ResponsesRequest) -> Iterator[tuple[str, Function]]:
    for at, tool in enumerate(body.tools or []):
        field = f"tools[{at}]"
        if tool.type == "namespace":
            space = _required_name(field, tool)
            for within, function in enumerate(tool.tools or []):
                yield _function(f"{field}.tools[{within}]", function, space)
        elif not _is_left_out(tool):
            yield _function(field, tool)


def _function(field: str, tool: FunctionTool, namespace: str | None = None) -> tuple[str, Function]:
    if tool.type != "function":
        message = f"{field}.type: only functions are supported, not {tool.type[:40]!r}"
        raise Unsupported(message, param=f"{field}.type")
    name = full_name(namespace, _required_name(field, tool))
    if len(name) > MAX_TOOL_NAME_CHARS:
        message = f"{field}.name: with its namespace longer than {MAX_TOOL_NAME_CHARS} characters"
        raise RequestError(message, param=f"{field}.name")
    return field, Function(name, tool.description, tool.parameters, tool.strict)


def _required_name(field: str, tool: FunctionTool) -> str:
    if tool.name is None:
        raise RequestError(f"{field}.name: this field is required", param=f"{field}.name")
    return tool.name
