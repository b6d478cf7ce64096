"""Renders chat messages with the model's own template, under limits: the template is untrusted code from a file.

It knows nothing of tokens. Templates are Jinja as Hugging Face's `apply_chat_template` sets it up (trim_blocks,
lstrip_blocks, loop controls, `raise_exception`, `strftime_now`, a `tojson` that escapes nothing); docs/templates.md.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import minijinja

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.core.request import Chat

if TYPE_CHECKING:
    from shimmy.worker.chat.capabilities import Capabilities
    from shimmy.worker.chat.conversation import Instructions

MAX_TEMPLATE_CHARS = 1 << 20
MAX_RENDERED_CHARS = 32 << 20
# A step is roughly one operation; the longest real template needs some thousands per message.
FUEL_PER_RENDER = 20_000_000
FUEL_PER_PROBE = 1_000_000
MAX_INDENT = 16
MAX_DATE_FORMAT_CHARS = 256
# Of what is told of a failure.
MAX_REASON_CHARS = 500

CHATML = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
CHATML_STOPS = ["<|im_end|>", "<|im_start|>"]

# What templates say and minijinja does not know, and what it understands instead.
_REWRITES = (
    # Hugging Face's mark around what a model is trained to say; it changes no text.
    (re.compile(r"\{%([-+]?)\s*generation\s*([-+]?)%\}"), r"{%\1 if true \2%}"),
    (re.compile(r"\{%([-+]?)\s*endgeneration\s*([-+]?)%\}"), r"{%\1 endif \2%}"),
    # Over nothing minijinja panics.
    (re.compile(r"\[::-1\](?=\s*(?:-?[%}]\}|\)|\|))"), "|reverse"),
    # A list that grows, or gives away its first item, as a statement of its own.
    (
        re.compile(r"\{%([-+]?)\s*set\s+_\s*=\s*([\w.]+)\.append\(([\w.]+)\)\s*([-+]?)%\}"),
        r"{%\1 set \2 = \2 + [\3] \4%}",
    ),
    (
        re.compile(r"\{%([-+]?)\s*set\s+(\w+)\s*=\s*([\w.]+)\.pop\(0\)\s*([-+]?)%\}"),
        r"{%\1 set \2 = \3[0] -%}{%- set \3 = \3[1:] \4%}",
    ),
)


class _Refused(Exception):
    """The template called raise_exception."""


class ChatTemplate:
    """One compiled template. `text` is as the file has it, `source` is "gguf" or "chatml"; `stops` are strings that end
    a turn besides EOG tokens. For one thread."""

    def __init__(self, text: str | None, *, bos_token: str, eos_token: str) -> None:
        """`text` None gives ChatML. A template that does not compile is reported by `render`."""
        self.source = "chatml" if text is None else "gguf"
        self.text = CHATML if text is None else text
        self.stops = CHATML_STOPS if text is None else []
        self._refusal: str | None = None
        self._error = ""
        self._environment = minijinja.Environment(
            fuel=FUEL_PER_RENDER,
            trim_blocks=True,
            lstrip_blocks=True,
            filters={"tojson": _to_json, "from_json": json.loads, "length": _length, "count": _length},
            tests={"iterable": _is_iterable, "sequence": _is_sequence},
            globals={
                "raise_exception": self._raise,
                "strftime_now": _strftime_now,
                "bos_token": bos_token,
                "eos_token": eos_token,
            },
        )
        self._compile(self.text)

    def render(self, chat: Chat, instructions: "Instructions | None" = None) -> str:
        """The prompt: up to where the assistant speaks, or, with `continue_final`, up to where it stopped speaking.

        `instructions` says of tools what a model must know whose template does not. Raises `RequestError` when the
        template refuses the messages or has no place for what they bring, `ModelInvalid` when it is itself at fault.
        """
        from shimmy.worker.chat.conversation import rendered

        if self._error:
            raise ModelInvalid(self._error)
        return rendered(chat, self.capabilities, self._render, instructions)

    @cached_property
    def capabilities(self) -> "Capabilities":
        """What it can be given. Each of them is found out when it is first needed, by rendering with it."""
        from shimmy.worker.chat.capabilities import Capabilities

        return Capabilities(self.text, self._attempt)

    def _render(self, variables: dict[str, Any]) -> str:
        from shimmy.worker.chat.bounds import bounded

        self._refusal = None
        try:
            with bounded():
                text = self._environment.render_template("chat", **variables)
        except BaseException as error:
            _raise_unless_its_own(error)
            raise self._explain(error) from error
        if len(text) > MAX_RENDERED_CHARS:
            raise RequestError(f"the rendered prompt has {len(text)} characters", param="messages")
        return str(text)

    def _attempt(self, variables: dict[str, Any]) -> str | None:
        """None where the template does not take it."""
        with self._fuel(FUEL_PER_PROBE):
            try:
                return self._render(variables)
            except (RequestError, ModelInvalid):
                return None

    @contextmanager
    def _fuel(self, steps: int) -> Iterator[None]:
        self._environment.fuel = steps
        try:
            yield
        finally:
            self._environment.fuel = FUEL_PER_RENDER

    def _compile(self, text: str) -> None:
        if len(text) > MAX_TEMPLATE_CHARS:
            self._error = f"the model's chat template has {len(text)} characters"
            return
        for pattern, replacement in _REWRITES:
            text = pattern.sub(replacement, text)
        try:
            self._environment.add_template("chat", text)
        except BaseException as error:
            _raise_unless_its_own(error)
            self._error = f"the model's chat template does not compile: {_told(error)}"

    def _raise(self, reason: Any) -> None:
        self._refusal = str(reason)[:MAX_REASON_CHARS]
        raise _Refused

    def _explain(self, error: BaseException) -> Exception:
        if self._refusal is not None:
            return RequestError(f"the model's chat template refuses the messages: {self._refusal}", param="messages")
        return ModelInvalid(f"the model's chat template failed: {_told(error)}")


def _told(error: BaseException) -> str:
    """Without the template itself and the variables it was given, which minijinja shows under the first line."""
    return str(error).partition("\n")[0][:MAX_REASON_CHARS]


def _raise_unless_its_own(error: BaseException) -> None:
    """minijinja panics over some templates, which is no `Exception` here, and must not end the thread."""
    if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
        raise error


def _length(value: Any) -> int:
    """What is not defined, which comes as None, has the length 0 in Jinja."""
    return 0 if value is None else len(value)


def _is_iterable(value: Any) -> bool:
    """As in Jinja: nothing, written as none, is not."""
    return hasattr(value, "__iter__")


def _is_sequence(value: Any) -> bool:
    """As in Jinja, for which text and objects are sequences too."""
    return hasattr(value, "__len__") and hasattr(value, "__getitem__")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None:
        indent = min(indent, MAX_INDENT)
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(format: str) -> str:
    if len(format) > MAX_DATE_FORMAT_CHARS:
        raise ValueError("the format of a date is too long")
    return time.strftime(format)
