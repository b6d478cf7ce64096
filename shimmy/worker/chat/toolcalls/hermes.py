"""`<tool_call>` with a JSON object: Hermes, Qwen 2.5 and 3, Granite 4, and models that were trained for none."""

import json
from collections.abc import Sequence

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.call_objects import CallObjects

_FORM = {"begins": ("<tool_call>",), "other_marks": ("</tool_call>",), "close": "</tool_call>", "padding": "\n"}

HERMES = CallObjects(name="hermes", **_FORM)  # type: ignore[arg-type]


class Described(CallObjects, frozen=True, kw_only=True):
    """For templates without tools. Of all forms this is the one that most models have seen, whatever their own is. An
    earlier call stands in the messages as the model is told to write it, an answer to it in a `user` message."""

    def instructions(self, tools: Sequence[Tool]) -> str:
        described = "\n".join(_described(tool) for tool in tools)
        return (
            "You can call these functions; each line describes one as JSON, with the JSON schema of its arguments:\n"
            f"<tools>\n{described}\n</tools>\n"
            "To call a function, write its name and its arguments as a JSON object within <tool_call> tags, like this, "
            "once for each call:\n"
            '<tool_call>\n{"name": "function-name", "arguments": {"argument-name": "value"}}\n</tool_call>\n'
            "You then get what it returned within <tool_response> tags. Call a function only if it helps; otherwise "
            "answer without one."
        )


DESCRIBED = Described(name="described", **_FORM)  # type: ignore[arg-type]


def _described(tool: Tool) -> str:
    function = {"name": tool.name, "description": tool.description, "parameters": json.loads(tool.parameters)}
    return json.dumps({name: value for name, value in function.items() if value is not None}, ensure_ascii=False)
