"""The chat templates of real models that llama.cpp carries (build/templates.py), and Jinja to compare with."""

import json
import time
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from build import templates

FOLDER = templates.folder()
NAMES = sorted(path.stem for path in FOLDER.glob("*.jinja"))


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text("utf-8")


class Refused(Exception):
    """The template called raise_exception."""


class Generation(jinja2.ext.Extension):
    """transformers' mark around what a model is trained to say."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> Any:
        return caller()


def jinja(text: str, *, grows_lists: bool = False) -> jinja2.Template:
    """As transformers sets it up (utils/chat_template_utils.py), and llama.cpp's from_json; `grows_lists` takes the
    sandbox that lets templates change lists, which transformers' does not."""
    kind = jinja2.sandbox.SandboxedEnvironment if grows_lists else jinja2.sandbox.ImmutableSandboxedEnvironment
    environment = kind(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters |= {"tojson": _to_json, "from_json": json.loads}
    environment.globals |= {
        "raise_exception": _refuse,
        "strftime_now": time.strftime,
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    return environment.from_string(text)


def _refuse(reason: str) -> None:
    raise Refused(reason)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
