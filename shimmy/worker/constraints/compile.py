"""Compiles what clients send into constraints, on the intake thread, within limits of size and time.

Everything becomes one text in llguidance's Lark (docs/syntax.md there), without its forced tokens: a mask then has
all tokens that may follow, and not only those that a tokenizer would choose.
"""

import json
import re
import threading
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import Any, NamedTuple

from shimmy.core.errors import RequestError, Unavailable, Unsupported
from shimmy.core.request import Constraint
from shimmy.worker.constraints.cache import Cache
from shimmy.worker.constraints.gbnf import to_lark
from shimmy.worker.constraints.libllguidance import llguidance
from shimmy.worker.constraints.matcher import ALLOWED, Compiled, explained
from shimmy.worker.constraints.schema import enforceable
from shimmy.worker.constraints.vocabulary import Model, tokenizer

MAX_GRAMMAR_BYTES = 16 << 10
MAX_REGEX_CHARS = 1024
COMPILE_SECONDS = 2.0
CACHE_BYTES = 64 << 20
# What llguidance makes of a text is larger than the text: 1 MB of a schema of 10 kB, 140 kB of one of 100 bytes.
_BYTES_EACH, _BYTES_PER_CHAR = 140 << 10, 100

_OPTIONS = '%llguidance {"no_forcing": true}\n'
# At each place at most so much, so that no model writes spaces for ever.
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"
# A grammar could switch limits and checks off with these.
# Each looks at a line at most from where it begins: over many lines that would take the square of their number.
_REFUSED = re.compile(r"^[^\S\n]*%(?:llguidance|import)\b|%json\b|%lark\b", re.MULTILINE)
_EMPTY_OPTIONS = re.compile(r"^[^\S\n]*%llguidance\s*\{\s*\}", re.MULTILINE)
_LARK_START = re.compile(r"^[^\S\n]*start(?:\[[^\]\n]*\])?\s*:(?!:=)", re.MULTILINE)
_START = re.compile(r"^start:", re.MULTILINE)


class _TooSlow(RequestError):
    """There was no time to find out what is wrong."""


class _Job(NamedTuple):
    """What is to be compiled: its text is made when it is needed."""

    lark: Callable[[], str]
    field: str
    is_json: bool
    num_chars: int

    @property
    def size(self) -> int:
        return _BYTES_EACH + _BYTES_PER_CHAR * self.num_chars


class Compiler:
    """For one model, and one thread."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._cache: Cache[Compiled | RequestError] = Cache(CACHE_BYTES)
        self._stuck: threading.Thread | None = None

    def compile(self, constraint: Constraint) -> Compiled:
        """Raises `RequestError`, naming the field, for what is wrong, not supported, or too complex."""
        is_json = constraint.kind in ("json_schema", "json_object")
        job = _Job(lambda: _LARK[constraint.kind](constraint.text), constraint.field, is_json, len(constraint.text))
        return self._kept((constraint.kind, constraint.text), job)

    def compile_calls(self, lark: str, field: str, answer: Constraint | None) -> Compiled:
        """What calls must be, in Lark that begins with the rule named start; with `answer` there may be that instead.
        Raises the same."""
        job = _Job(lambda: _either(lark, answer), field, False, len(lark) + len(answer.text if answer else ""))
        return self._kept((lark, answer and (answer.kind, answer.text)), job)

    def _kept(self, key: Hashable, job: "_Job") -> Compiled:
        found = self._cache.get(key, lambda: self._compiled(job), lambda _: job.size)
        if isinstance(found, Compiled) and found.is_spent:
            self._cache.drop(key)
            found = self._cache.get(key, lambda: self._compiled(job), lambda _: job.size)
        if isinstance(found, RequestError):
            raise type(found)(f"{job.field}: {found.message}", param=job.field)
        return found

    def _compiled(self, job: "_Job") -> Compiled | RequestError:
        """An error is worth keeping as well: it may have taken long to find."""
        try:
            lark = _OPTIONS + job.lark()
            return self._within_time(lambda: self._matcher(lark, job), job.field)
        except _TooSlow:
            # That may have been the machine.
            raise
        except RequestError as error:
            return error

    def _within_time(self, make: Callable[[], Compiled], field: str) -> Compiled:
        """llguidance cannot be interrupted. Its limits and ours should not let it come to this."""
        if self._stuck is not None and self._stuck.is_alive():
            raise Unavailable("another constraint is still being compiled", retry_after_seconds=1)
        made: list[Compiled | RequestError] = []

        def run() -> None:
            try:
                made.append(make())
            except RequestError as error:
                made.append(error)

        self._tokenizer  # noqa: B018  is made once, and counts for no constraint
        worker = threading.Thread(target=run, name="constraint", daemon=True)
        worker.start()
        worker.join(COMPILE_SECONDS)
        if not made:
            self._stuck = worker
            raise _TooSlow(f"{field}: it takes more than {COMPILE_SECONDS:g} s to compile", param=field)
        if isinstance(made[0], RequestError):
            raise made[0]
        return made[0]

    def _matcher(self, lark: str, job: "_Job") -> Compiled:
        library = llguidance()
        grammar = library.LLMatcher.grammar_from_lark(lark)
        native = library.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if not native.is_error():
            # What is too complex shows when it is used, and the first use costs most.
            first = native.deep_copy()
            if ALLOWED not in first.compute_logit_bias() and not first.is_error():
                raise RequestError("nothing can meet it")
            native = first if first.is_error() else native
        if native.is_error():
            raise RequestError(explained(native.get_error()) or "it cannot be compiled")
        return Compiled(native, self._tokenizer, job.field, is_json=job.is_json)

    @cached_property
    def _tokenizer(self) -> Any:
        return tokenizer(self._model)

    @cached_property
    def _limits(self) -> Any:
        return llguidance().LLParserLimits(
            max_items_in_row=3000,
            initial_lexer_fuel=500_000,
            step_lexer_fuel=50_000,
            step_max_items=20_000,
            max_lexer_states=50_000,
            max_grammar_size=50_000,
            precompute_large_lexemes=False,
            verbose_errors=False,
        )


def _either(calls: str, answer: Constraint | None) -> str:
    """Calls or an answer. The rules of a client's grammar could have the same names as those of the calls."""
    if answer is None:
        return calls
    if answer.kind == "grammar":
        raise Unsupported(f"not together with {answer.field}, unless tool_choice is none or required")
    return "\n".join(
        ["start: calls | answer", _START.sub("calls:", calls), _START.sub("answer:", _LARK[answer.kind](answer.text))]
    )


def _of_schema(text: str) -> str:
    schema = json.loads(enforceable(text))
    if schema is False:
        raise RequestError("nothing can meet the schema false")
    options = {"x-guidance": {"whitespace_pattern": _WHITESPACE}}
    return "start: %json " + json.dumps(options | ({} if schema is True else schema), ensure_ascii=False)


def _of_object(_: str) -> str:
    return _of_schema('{"type": "object"}')


def _of_regex(text: str) -> str:
    if len(text) > MAX_REGEX_CHARS:
        raise RequestError(f"more than {MAX_REGEX_CHARS} characters")
    # As in JSON Schema, \d and \w are those of ASCII.
    return f"start: /{llguidance().regex_to_lark(text, 'dw')}/"


def _of_choice(text: str) -> str:
    return "start: " + " | ".join(json.dumps(choice, ensure_ascii=False) for choice in json.loads(text))


def _of_grammar(text: str) -> str:
    """Lark or GBNF, which define rules with different signs."""
    if len(text.encode()) > MAX_GRAMMAR_BYTES:
        raise RequestError(f"more than {MAX_GRAMMAR_BYTES} bytes")
    if not _LARK_START.search(text) and "::=" in text:
        try:
            return to_lark(text)
        except ValueError as error:
            raise RequestError(str(error)) from None
    lark = _EMPTY_OPTIONS.sub("", text)
    if found := _REFUSED.search(lark):
        raise RequestError(f"{found[0].strip()} is not supported in a grammar")
    return lark


_LARK: dict[str, Callable[[str], str]] = {
    "json_schema": _of_schema,
    "json_object": _of_object,
    "regex": _of_regex,
    "choice": _of_choice,
    "grammar": _of_grammar,
}
