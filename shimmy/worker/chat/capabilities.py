"""What a chat template can be given, found out by rendering small conversations with it and looking for their words.

Knows the shapes of messages in templates, and no request's. Every question is asked once, when its answer is needed.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any

Attempt = Callable[[dict[str, Any]], str | None]

# Words that no template has by itself.
SYSTEM, USER, NAME, OTHER_NAME = "Zyq-system", "Zyq-user", "zyq_tool", "zyq_other"
KEY, VALUE, RESULT, THOUGHT = "zyq_key", "zyq_value", "Zyq-result", "Zyq-thought"
LONG_ID, SHORT_ID = "call_zyq00000001", "zyq000001"
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")

_USER = {"role": "user", "content": USER}
_ARGUMENTS = {KEY: VALUE}
_ARGUMENTS_TEXT = f'{{"{KEY}": "{VALUE}"}}'
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "A tool",
            "parameters": {
                "type": "object",
                "properties": {"text": {"type": "string", "description": "A parameter"}},
                "required": ["text"],
            },
        },
    }
    for name in (NAME, OTHER_NAME)
]


class Capabilities:
    """Of one template."""

    def __init__(self, text: str, attempt: Attempt) -> None:
        """`attempt` renders with some variables; None stands for a failure."""
        self._text = text
        self._attempt = attempt

    @cached_property
    def wants_parts(self) -> bool:
        """Content must be a list of parts, since a string fails or does not come out."""
        if "type" not in self._text or self._says([_USER], USER):
            return False
        return self._says([{"role": "user", "content": [{"type": "text", "text": USER}]}], USER)

    @cached_property
    def has_system_role(self) -> bool:
        return self._says([self._message("system", SYSTEM), self._user], SYSTEM)

    @cached_property
    def shows_tools(self) -> bool:
        if "tools" not in self._text:
            return False
        return self._says([self._user], NAME, tools=_TOOLS) or self._says(
            [self._message("system", SYSTEM), self._user], NAME, tools=_TOOLS
        )

    @cached_property
    def shows_calls(self) -> bool:
        """Calls of earlier turns come out."""
        return "tool_calls" in self._text and self._call_form is not None

    @cached_property
    def wants_argument_text(self) -> bool:
        """Arguments must be JSON text; as objects they would not come out as JSON, or not at all."""
        return self._call_form is not None and self._call_form[0]

    @cached_property
    def wants_null_content(self) -> bool:
        """What a message with calls says must be null where it says nothing."""
        return self._call_form is not None and self._call_form[1]

    @cached_property
    def wants_short_ids(self) -> bool:
        """Ids of calls must have nine letters or digits."""
        return self._call_form is not None and self._call_form[2]

    @cached_property
    def shows_parallel_calls(self) -> bool:
        one, other = self._id(1), self._id(2)
        turn = self._turn([self._call(NAME, one), self._call(OTHER_NAME, other)])
        messages = [self._user, turn, self._result(one, NAME), self._result(other, OTHER_NAME)]
        return self.shows_calls and self._says(messages, OTHER_NAME)

    @cached_property
    def shows_results(self) -> bool:
        """Messages of the role "tool" come out."""
        if not self.shows_calls:
            return "tool" in self._text and self._says([self._user, self._result(LONG_ID, NAME)], RESULT)
        turn = self._turn([self._call(NAME, self._id(1))])
        return self._says([self._user, turn, self._result(self._id(1), NAME)], RESULT, tools=_TOOLS)

    @cached_property
    def reasoning_key(self) -> str | None:
        """What a message calls the thoughts of an earlier turn; None where the template has no name for them."""
        named = [key for key in REASONING_KEYS if f".{key}" in self._text or f"'{key}'" in self._text]
        named += [key for key in REASONING_KEYS if key not in named and f'"{key}"' in self._text]
        if self.thinks_in_parts or not named:
            return None
        return next((key for key in named if self._tells(key)), named[0]) if len(named) > 1 else named[0]

    @cached_property
    def thinks_in_parts(self) -> bool:
        """Thoughts are a part of the content, of the type "thinking"."""
        if '"thinking"' not in self._text and "'thinking'" not in self._text:
            return False
        parts = [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": "Zyq-text"}]
        turns = [self._user, {"role": "assistant", "content": parts}, self._user]
        text = self._try(turns) or ""
        return THOUGHT in text and "Zyq-text" in text and f"'{THOUGHT}'" not in text and f'"{THOUGHT}"' not in text

    @cached_property
    def wants_thought_or_text(self) -> bool:
        """A message with calls may have content or reasoning, not both."""
        if self.reasoning_key is None or not self.shows_calls:
            return False
        turn = self._turn([self._call(NAME, self._id(1))])
        results = [self._result(self._id(1), NAME)]
        both = {**turn, "content": "Zyq-text", self.reasoning_key: THOUGHT}
        only = {**turn, self.reasoning_key: THOUGHT}
        return not self._renders([self._user, both, *results]) and self._renders([self._user, only, *results])

    @cached_property
    def _call_form(self) -> tuple[bool, bool, bool] | None:
        """(arguments as text, null for no content, short ids) of the first form of a call that comes out."""
        for short_ids in (False, True):
            for null_content in (False, True):
                for as_text in (False, True):
                    form = (as_text, null_content, short_ids)
                    if self._takes(form):
                        return form
        return None

    def _takes(self, form: tuple[bool, bool, bool]) -> bool:
        as_text, null_content, short_ids = form
        id = SHORT_ID if short_ids else LONG_ID
        arguments = _ARGUMENTS_TEXT if as_text else _ARGUMENTS
        call = {"id": id, "type": "function", "function": {"name": NAME, "arguments": arguments}}
        turn = {"role": "assistant", "content": None if null_content else "", "tool_calls": [call]}
        text = self._try([self._user, turn, self._result(id, NAME)], tools=_TOOLS[1:])
        if text is None:
            return False
        # Python's own spelling of an object, and JSON inside of JSON, are no arguments.
        is_spoiled = f"'{KEY}'" in text or f'\\"{KEY}' in text
        return NAME in text and text.count(VALUE) > 0 and not is_spoiled

    def _tells(self, key: str) -> bool:
        turn = {"role": "assistant", "content": "Zyq-text", key: THOUGHT}
        if self._says([self._user, turn], THOUGHT, add_generation_prompt=False):
            return True
        if not self.shows_calls:
            return False
        turn = {**self._turn([self._call(NAME, self._id(1))]), key: THOUGHT}
        return self._says([self._user, turn, self._result(self._id(1), NAME)], THOUGHT)

    @property
    def _user(self) -> dict[str, Any]:
        return self._message("user", USER)

    def _turn(self, calls: list[dict[str, Any]]) -> dict[str, Any]:
        return {"role": "assistant", "content": None if self.wants_null_content else "", "tool_calls": calls}

    def _call(self, name: str, id: str) -> dict[str, Any]:
        arguments = _ARGUMENTS_TEXT if self.wants_argument_text else _ARGUMENTS
        return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}

    def _result(self, id: str, name: str) -> dict[str, Any]:
        return {**self._message("tool", RESULT), "tool_call_id": id, "name": name}

    def _id(self, number: int) -> str:
        return f"{SHORT_ID[:-1]}{number}" if self.wants_short_ids else f"{LONG_ID[:-1]}{number}"

    def _message(self, role: str, text: str) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "text": text}] if self.wants_parts else text}

    def _says(self, messages: list[dict[str, Any]], word: str, **more: Any) -> bool:
        return word in (self._try(messages, **more) or "")

    def _renders(self, messages: list[dict[str, Any]]) -> bool:
        return self._try(messages) is not None

    def _try(self, messages: list[dict[str, Any]], **more: Any) -> str | None:
        # A template may change what it is given.
        variables = {
            "messages": [dict(message) for message in messages],
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
            **more,
        }
        return self._attempt(variables)
