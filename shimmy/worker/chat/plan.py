"""How the answers to one request are to be read, and what they must be, as far as tools and thoughts say so.

Made on the intake thread from the request, the rendered prompt and the model's template; what takes time of it is done
once for a model.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from shimmy.core.errors import RequestError
from shimmy.core.request import Chat, Generation, Reasoning, Tool, ToolChoice
from shimmy.worker.chat.parts import Parser
from shimmy.worker.chat.reasoning import Channels, Marks, Place, is_open, recognise
from shimmy.worker.constraints.cache import Cache

if TYPE_CHECKING:
    from shimmy.worker.chat.toolcalls import Dialect
    from shimmy.worker.constraints.gate import Terms


_GRAMMAR_BYTES = 4 << 20


class Vocabulary(Protocol):
    """What is asked of a model (worker/llama/model.py is the real one)."""

    def tokenize(self, text: str, *, add_special: bool) -> list[int]: ...
    def control_token(self, text: str) -> int | None: ...


class Calls(NamedTuple):
    """What calls must be, in Lark; `field` is what the client calls the reason for it. With `or_answer` there may be an
    answer instead, which meets the request's own constraint. Where the arguments of some tools are all that is
    constrained, those are `held`."""

    lark: str
    field: str
    is_required: bool
    or_answer: bool
    held: frozenset[str] = frozenset()

    @property
    def is_optional(self) -> bool:
        """Whether there may be any other answer."""
        return not self.is_required and not self.or_answer


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`marks` are those of thoughts, and an answer begins in `place`; with `reads_thoughts` what `new_parser` makes,
    which finds calls, tells thoughts as well. `pieces` are control tokens that count as text here. `close` are the
    tokens that end thoughts, which come when `budget` tokens have been thought, and `skip` come first of all where that
    is none. A choice ends before it has more calls than `max_calls`. `stops` are looked for in the content. `terms` say
    when the constraint begins, where there is one, `calls` what calls must be. `checked` are the schemas of strict
    tools, by name, whose calls may come in ways in which nothing holds the model to them."""

    marks: Marks | None = None
    place: Place = Place.AFTER
    is_raw: bool = False
    new_parser: Callable[[], Parser] | None = None
    reads_thoughts: bool = False
    pieces: dict[int, bytes] = {}
    close: tuple[int, ...] = ()
    skip: tuple[int, ...] = ()
    budget: int | None = None
    max_calls: int | None = None
    stops: tuple[str, ...] = ()
    calls: Calls | None = None
    terms: "Terms | None" = None
    checked: dict[str, str] = {}

    @property
    def holds_arguments(self) -> bool:
        return self.calls is not None and bool(self.calls.held)


class Planner:
    """For one model, and one thread."""

    def __init__(self, template: str | None, vocabulary: Vocabulary) -> None:
        self._template = template
        self._vocabulary = vocabulary
        self._controls: dict[str, int | None] = {}
        self._grammars: Cache[str] = Cache(_GRAMMAR_BYTES)

    def of(self, generation: Generation, prompt: str) -> Plan | None:
        """`prompt` as it was rendered. None where an answer is nothing but text. Raises `RequestError` for tools that
        cannot be called as they must."""
        chat = generation.prompt
        if not isinstance(chat, Chat):
            return None
        uses_tools = bool(chat.tools) and chat.tool_choice.mode != "none"
        dialect = self._dialect if uses_tools or self._thinks_in_channels else None
        marks = None if self._thinks_in_channels else self._marks
        if dialect is None and marks is None:
            return None
        tools = chat.tools if uses_tools else []
        place = _place(marks, prompt, chat) if marks else Place.AFTER
        calls = None if dialect is None else self._calls(dialect, tools, chat.tool_choice, generation)
        close, skip = self._ends(marks, place, bool(tools))
        return Plan(
            marks=marks,
            place=place,
            is_raw=chat.reasoning.is_raw,
            new_parser=None if dialect is None else lambda: dialect.parser(tools, True),
            reads_thoughts=self._thinks_in_channels,
            pieces=self._pieces([*((marks.opener, marks.end) if marks else ()), *(dialect.marks if dialect else ())]),
            close=close,
            skip=skip,
            budget=_budget(chat.reasoning),
            max_calls=None if chat.tool_choice.parallel else 1,
            stops=tuple(generation.stop),
            calls=calls,
            terms=self._terms(marks, place, dialect, calls, generation.constraint is not None),
            checked={} if calls and not calls.is_optional else {each.name: each.parameters for each in _strict(tools)},
        )

    def instructions(self, tools: Sequence[Tool]) -> str | None:
        """What a model must be told of tools whose template does not."""
        return self._dialect.instructions(tools)

    def _calls(
        self, dialect: "Dialect", tools: Sequence[Tool], choice: ToolChoice, generation: Generation
    ) -> Calls | None:
        """What is called when that is up to the model is held to its schema where it is `strict`."""
        is_required = choice.mode == "required"
        has_answer = generation.constraint is not None and not is_required
        if has_answer and dialect.reads_thoughts:
            # In channels an answer is told from calls before either begins.
            return None
        strict = frozenset(tool.name for tool in _strict(tools))
        if not tools or not (is_required or has_answer or strict):
            return None
        if not is_required:
            tools = [tool if tool.strict else msgspec.structs.replace(tool, parameters=_ANY) for tool in tools]
        field = "tool_choice" if is_required else "tools"
        held = frozenset() if is_required or has_answer or self._callers(dialect) else strict
        return Calls(self._grammar(dialect, tools, choice, held), field, is_required, has_answer, held)

    def _grammar(self, dialect: "Dialect", tools: Sequence[Tool], choice: ToolChoice, held: frozenset[str]) -> str:
        """Clients send the same tools with every request of a conversation."""
        key = msgspec.msgpack.encode((tools, choice, sorted(held)))

        def make() -> str:
            for at, tool in enumerate(tools):
                if choice.name in (None, tool.name):
                    _check(f"tools[{at}].function.parameters", tool)
            control = {mark: token for mark in dialect.marks if (token := self._control(mark)) is not None}
            if held:
                return dialect.held_arguments(_strict(tools), control)
            return dialect.grammar(tools, choice, control)

        return self._grammars.get(key, make, lambda lark: len(key) + len(lark))

    def _terms(
        self, marks: Marks | None, place: Place, dialect: "Dialect | None", calls: Calls | None, has_constraint: bool
    ) -> "Terms | None":
        if not has_constraint and calls is None:
            return None
        from shimmy.worker.constraints.gate import Terms

        if calls is None and self._thinks_in_channels:
            return Terms(is_thinking=True)
        openers = frozenset(self._single(marks.opener) if marks and place is Place.BEFORE else ())
        callers = None
        held = calls.held if calls else frozenset()
        if calls and dialect and calls.is_optional and not held:
            callers = self._callers(dialect)
        return Terms(place is Place.THINKING, openers, callers, held, calls is not None and not calls.or_answer)

    def _callers(self, dialect: "Dialect") -> frozenset[int]:
        """The tokens that begin a call and nothing else."""
        marks = [] if dialect.reads_thoughts else [mark for mark in dialect.begins if _WORD.search(mark)]
        return frozenset(token for mark in marks for token in self._single(mark))

    def _ends(self, marks: Marks | None, place: Place, has_tools: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that end thoughts, and those that keep them from beginning."""
        if marks is not None:
            close = self._tokens(marks.end)
            return close, close if place is Place.THINKING else ()
        if not self._thinks_in_channels:
            return (), ()
        if has_tools:
            # Whether what follows is a call is the model's to say.
            return self._tokens(Channels.CLOSE), ()
        return self._tokens(Channels.CLOSE + Channels.ANSWER), self._tokens(Channels.ANSWER)

    def _single(self, text: str) -> list[int]:
        """The token of which this is all the text; none if there is no such token."""
        tokens = self._vocabulary.tokenize(text, add_special=False)
        return tokens if len(tokens) == 1 else []

    def _pieces(self, texts: list[str]) -> dict[int, bytes]:
        return {token: text.encode() for text in texts if (token := self._control(text)) is not None}

    def _control(self, text: str) -> int | None:
        if text not in self._controls:
            self._controls[text] = self._vocabulary.control_token(text)
        return self._controls[text]

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._vocabulary.tokenize(text, add_special=False))

    @cached_property
    def _marks(self) -> Marks | None:
        return recognise(self._template)

    @cached_property
    def _thinks_in_channels(self) -> bool:
        """Whether an answer must be read by the dialect even where there are no tools."""
        return bool(self._template) and "<|channel|>" in str(self._template) and self._dialect.reads_thoughts

    @cached_property
    def _dialect(self) -> "Dialect":
        from shimmy.worker.chat.toolcalls import recognise as recognise_dialect

        return recognise_dialect(self._template)


_ANY = '{"type":"object"}'
# Of a mark that is none but signs any text may begin with.
_WORD = re.compile("[A-Za-z]{4}")


def _strict(tools: Sequence[Tool]) -> list[Tool]:
    return [tool for tool in tools if tool.strict]


def _place(marks: Marks, prompt: str, chat: Chat) -> Place:
    if is_open(marks, prompt, chat):
        return Place.THINKING
    return Place.AFTER if chat.continue_final else Place.BEFORE


def _budget(reasoning: Reasoning) -> int | None:
    """Who is told not to think, and does, is stopped."""
    return 0 if reasoning.enabled is False else reasoning.budget_tokens


def _check(field: str, tool: Tool) -> None:
    from shimmy.worker.constraints.schema import enforceable

    try:
        enforceable(tool.parameters)
    except RequestError as error:
        raise type(error)(f"{field}: {error.message}", param=field) from None
