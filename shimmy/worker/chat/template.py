"""Renders chat messages with the model's own template, under limits: the template is untrusted code from a file.

It knows nothing of tokens. Templates are Jinja as Hugging Face's `apply_chat_template` sets it up (trim_blocks,
lstrip_blocks, `raise_exception`, `strftime_now`, a `tojson` that escapes nothing).
"""

import json
import time
from collections.abc import Sequence
from typing import Any

import minijinja

from shimmy.core.errors import ModelInvalid, RequestError
from shimmy.core.request import Message

MAX_TEMPLATE_CHARS = 1 << 20
MAX_RENDERED_CHARS = 32 << 20
# A step is roughly one operation; the longest real template needs some thousands per message.
FUEL_PER_RENDER = 50_000_000

CHATML = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
CHATML_STOPS = ["<|im_end|>", "<|im_start|>"]


class _Refused(Exception):
    """The template called raise_exception."""


class ChatTemplate:
    """One compiled template. `source` is "gguf" or "chatml"; `stops` are strings that end a turn besides EOG tokens."""

    def __init__(self, text: str | None, *, bos_token: str, eos_token: str) -> None:
        """`text` None gives ChatML. A template that does not compile is reported by `render`."""
        self.source = "chatml" if text is None else "gguf"
        self.stops = CHATML_STOPS if text is None else []
        self._refusal: str | None = None
        self._error = ""
        self._environment = minijinja.Environment(
            fuel=FUEL_PER_RENDER,
            trim_blocks=True,
            lstrip_blocks=True,
            filters={"tojson": _to_json},
            globals={
                "raise_exception": self._raise,
                "strftime_now": time.strftime,
                "bos_token": bos_token,
                "eos_token": eos_token,
            },
        )
        self._compile(CHATML if text is None else text)

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt up to where the assistant speaks.

        Raises `RequestError` when the template refuses the messages, `ModelInvalid` when it is itself at fault.
        """
        if self._error:
            raise ModelInvalid(self._error)
        self._refusal = None
        try:
            text = self._environment.render_template(
                "chat", messages=[_as_dict(message) for message in messages], add_generation_prompt=True
            )
        except Exception as error:
            raise self._explain(error) from error
        if len(text) > MAX_RENDERED_CHARS:
            raise RequestError(f"the rendered prompt has {len(text)} characters", param="messages")
        return str(text)

    def _compile(self, text: str) -> None:
        if len(text) > MAX_TEMPLATE_CHARS:
            self._error = f"the model's chat template has {len(text)} characters"
            return
        try:
            self._environment.add_template("chat", text)
        except Exception as error:
            self._error = f"the model's chat template does not compile: {error}"

    def _raise(self, reason: Any) -> None:
        self._refusal = str(reason)
        raise _Refused

    def _explain(self, error: Exception) -> Exception:
        if self._refusal is not None:
            return RequestError(f"the model's chat template refuses the messages: {self._refusal}", param="messages")
        return ModelInvalid(f"the model's chat template failed: {error}")


def _as_dict(message: Message) -> dict[str, str]:
    fields = {"role": message.role, "content": message.content}
    return fields if message.name is None else {**fields, "name": message.name}


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)
