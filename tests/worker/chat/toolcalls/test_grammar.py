"""What a grammar lets through is what its dialect reads: calls of the tools that were asked for, and nothing else."""

import json
import random
from functools import cache
from typing import Any

import pytest

from shimmy.core.errors import RequestError, Unsupported
from shimmy.core.request import Tool, ToolChoice
from shimmy.worker.chat.parts import Content
from shimmy.worker.chat.plan import Calls, Plan
from shimmy.worker.chat.toolcalls import Dialect
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.gate import Gate, Terms
from shimmy.worker.constraints.libllguidance import llguidance
from shimmy.worker.constraints.matcher import ALLOWED, Compiled
from shimmy.worker.constraints.vocabulary import tokenizer
from shimmy.worker.reply import Reply
from tests.worker.chat.toolcalls.answers import INTEGER, STRING, TOOLS, Answer, answer, pieces, read, tool
from tests.worker.chat.toolcalls.dialects import every_dialect

DIALECTS = every_dialect()
EACH = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
CHOICES = [ToolChoice("required"), ToolChoice("required", "plan"), ToolChoice("required", parallel=False)]
# What ends texts and calls, so that a random walk comes to an end.
ENDS: tuple[str, ...] = (
    '"',
    "}",
    "]",
    ")",
    "\n",
    ">",
    "</parameter>",
    "</param>",
    "</arg_value>",
    "</arg_value:opensource>",
    "<escape>",
)
ENDS += ('<|"|>', "</｜DSML｜parameter>", "<|end|>")
MOST_STEPS = 600
NO_CALLS = ["", "Hello.", "{}", "[]", '{"name": "now"}']


class Bytes:
    """A vocabulary of bytes and some words; `control` tokens add nothing to a text."""

    def __init__(self, words: tuple[str, ...], control: tuple[str, ...] = ()) -> None:
        self.tokens = [bytes([byte]) for byte in range(256)] + [word.encode() for word in words]
        self.control = {text: len(self.tokens) + at for at, text in enumerate(control)}
        self.end = len(self.tokens) + len(control)
        self.end_tokens = frozenset([self.end])

    def pieces(self) -> list[bytes]:
        return [*self.tokens, *(b"" for _ in self.control), b""]

    def text(self, tokens: list[int]) -> str:
        spelled = {token: text.encode() for text, token in self.control.items()}
        return b"".join(spelled.get(token) or self.tokens[token] for token in tokens).decode("utf-8", "replace")


PLAIN = Bytes(ENDS)


@cache
def plain_tokenizer() -> Any:
    return tokenizer(PLAIN)


def matcher(lark: str, tokens: Any = None) -> Any:
    """With the limits that requests have."""
    grammar = llguidance().LLMatcher.grammar_from_lark('%llguidance {"no_forcing": true}\n' + lark)
    limits = Compiler(PLAIN)._limits
    native = llguidance().LLMatcher(tokens or plain_tokenizer(), grammar, log_level=0, limits=limits)
    assert not native.is_error(), native.get_error()
    return native


def accepts(native: Any, text: str) -> bool:
    tokens = list(text.encode())
    copy = native.deep_copy()
    return bool(copy.try_consume_tokens(tokens) == len(tokens) and copy.is_accepting())


def walk(native: Any, vocabulary: Bytes, seed: int) -> str | None:
    """A random text that the grammar lets through; None if it did not end in time. What ends something is preferred."""
    choose = random.Random(seed)
    tokens: list[int] = []
    while len(tokens) < MOST_STEPS:
        mask = native.compute_logit_bias()
        allowed = [token for token, sign in enumerate(mask) if sign == ALLOWED[0]]
        if not allowed or native.is_stopped() or (vocabulary.end in allowed and choose.random() < 0.5):
            assert native.is_accepting() or native.is_stopped()
            return vocabulary.text(tokens)
        allowed = [token for token in allowed if token != vocabulary.end]
        readable = [token for token in allowed if 32 < token < 127 or token > 255]
        ends = [token for token in allowed if token > 255 or chr(token) in '"}])\n>']
        wanted = ends if ends and choose.random() < 0.4 else readable if readable and choose.random() < 0.8 else allowed
        tokens.append(choose.choice(wanted))
        assert native.consume_token(tokens[-1])
    return None


def check(found: Answer, choice: ToolChoice) -> None:
    assert not found.doubts
    assert not found.content.strip()
    assert 1 <= len(found.calls) <= (64 if choice.parallel else 1)
    for call in found.calls:
        assert choice.name in (None, call.name)
        assert of_schema(json.loads(call.arguments), {tool.name: tool for tool in TOOLS}[call.name])


def of_schema(arguments: Any, tool: Tool) -> bool:
    """As far as the schemas of TOOLS go."""
    schema = json.loads(tool.parameters)
    types = {"string": str, "integer": int, "number": int | float, "boolean": bool, "array": list, "null": type(None)}
    for name, value in arguments.items():
        each = schema["properties"][name]
        named = each.get("type", [])
        kinds = [types[kind] for kind in ([named] if isinstance(named, str) else named)]
        assert value in each["enum"] if "enum" in each else any(isinstance(value, kind) for kind in kinds)
    return set(schema["required"]) <= set(arguments)


@EACH
@pytest.mark.parametrize("choice", CHOICES, ids=["any", "named", "one"])
def test_what_a_grammar_lets_through_is_read_as_the_calls_asked_for(dialect: Dialect, choice: ToolChoice) -> None:
    native = matcher(dialect.grammar(TOOLS, choice))
    texts = [walk(native.deep_copy(), PLAIN, seed) for seed in range(4)]
    ended = [text for text in texts if text is not None]
    assert ended
    for text in ended:
        check(answer(read(dialect, pieces(text, 3))), choice)


@EACH
def test_the_same_where_marks_are_control_tokens(dialect: Dialect) -> None:
    vocabulary = Bytes(ENDS, tuple(mark for mark in dialect.marks if mark.startswith("<") and mark != "<tool_call>"))
    choice = ToolChoice("required")
    lark = dialect.grammar(TOOLS, choice, vocabulary.control)
    native = matcher(lark, tokenizer(vocabulary))
    texts = [walk(native.deep_copy(), vocabulary, seed) for seed in range(2)]
    for text in texts:
        if text is not None:
            check(answer(read(dialect, [text])), choice)


@EACH
@pytest.mark.parametrize("size", [1, 4])
def test_arguments_that_are_held_are_those_of_the_calls(dialect: Dialect, size: int) -> None:
    """Whatever token a call's arguments begin in, all of what may be written may be written."""
    compiled = Compiled(matcher(dialect.held_arguments(TOOLS)), plain_tokenizer(), "tools", is_json=False)
    native = matcher(dialect.grammar(TOOLS, ToolChoice("required")))
    texts = [text for text in (walk(native.deep_copy(), PLAIN, seed) for seed in range(4)) if text is not None]
    assert texts
    for text in texts:
        place = Gate(compiled.guide(), Terms(held=frozenset(tool.name for tool in TOOLS)))
        parser = dialect.parser(TOOLS, True)
        num_held = 0
        for piece in pieces(text, size):
            assert all(place.take(byte) for byte in piece.encode()), piece
            parser.push(piece)
            if (due := parser.due()) is not None:
                num_held += 1
                place.hold(*due)
        assert place.is_met(text, is_cut=False)
        # A name's end may be the call's.
        calls = [call for call in answer(read(dialect, [text])).calls if call.arguments != "{}"]
        assert num_held >= len(calls) or size > 1


@EACH
def test_arguments_that_do_not_meet_their_schema_are_refused_from_where_they_begin(dialect: Dialect) -> None:
    written = matcher(dialect.grammar([tool("f", "n", n=STRING)], ToolChoice("required")))
    text = next(text for text in (walk(written.deep_copy(), PLAIN, seed) for seed in range(20)) if text is not None)
    for strict, is_held in ((tool("f", "n", n=INTEGER), True), (tool("g", "n", n=INTEGER), False)):
        compiled = Compiled(matcher(dialect.held_arguments([strict])), plain_tokenizer(), "tools", is_json=False)
        place, parser = Gate(compiled.guide(), Terms(held=frozenset([strict.name]))), dialect.parser([strict], True)
        taken = []
        for char in text:
            taken.append(all(place.take(byte) for byte in char.encode()))
            parser.push(char)
            if (due := parser.due()) is not None:
                place.hold(*due)
        assert all(taken) != is_held


@EACH
def test_where_calls_must_come_nothing_of_an_answer_that_was_cut_is_content(dialect: Dialect) -> None:
    native = matcher(dialect.grammar(TOOLS, ToolChoice("required")))
    text = next(text for text in (walk(native.deep_copy(), PLAIN, seed) for seed in range(20)) if text is not None)
    plan = Plan(new_parser=lambda: dialect.parser(TOOLS, True), calls=Calls("", "tool_choice", True, False))
    for length in {*range(1, len(text), 1 + len(text) // 40), *range(1, min(len(text), 40))}:
        reply = Reply(plan, [])
        said = [*reply.push(text[:length].encode()), *reply.finish(is_cut=True)]
        assert not [part for part in said if isinstance(part, Content)]


@EACH
def test_a_wrong_name_wrong_arguments_and_prose_are_refused(dialect: Dialect) -> None:
    weather = [tool("get_weather", "city", city={"type": "integer"})]
    named = matcher(dialect.grammar(TOOLS, ToolChoice("required", "get_weather")))
    text = next(text for text in (walk(named.deep_copy(), PLAIN, seed) for seed in range(20)) if text is not None)
    assert accepts(named, text)
    assert not accepts(matcher(dialect.grammar(TOOLS, ToolChoice("required", "now"))), text)
    assert not accepts(named, text.replace("get_weather", "get_whether"))
    assert not accepts(matcher(dialect.grammar(weather, ToolChoice("required"))), text)
    assert not any(accepts(named, each) for each in NO_CALLS)


@EACH
def test_schemas_with_references_and_without_properties(dialect: Dialect) -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "additionalProperties": False}
    schema = {"type": "object", "properties": {"node": {"$ref": "#/$defs/node"}}, "$defs": {"node": node}}
    tools = [Tool("walk", parameters=json.dumps(schema)), Tool("free"), Tool("any", parameters="true")]
    assert matcher(dialect.grammar(tools, ToolChoice("required")))


@EACH
def test_where_the_schema_names_no_arguments_there_may_be_any(dialect: Dialect) -> None:
    free = Tool("free", parameters='{"type":"object","additionalProperties":{"type":"integer"}}')
    native = matcher(dialect.grammar([free], ToolChoice("required")))
    texts = [text for seed in range(30) if (text := walk(native.deep_copy(), PLAIN, seed)) is not None]
    calls = [call for text in texts for call in answer(read(dialect, [text], [free])).calls]
    assert any(json.loads(call.arguments) for call in calls)
    assert all(type(value) is int for call in calls for value in json.loads(call.arguments).values())
    anything = matcher(dialect.grammar([Tool("any")], ToolChoice("required")))
    for text in (walk(anything.deep_copy(), PLAIN, seed) for seed in range(3)):
        if text is not None:
            assert not answer(read(dialect, [text], [Tool("any")])).doubts


@EACH
def test_what_cannot_be_enforced_is_refused_by_name(dialect: Dialect) -> None:
    bad = Tool("f", parameters='{"type":"object","properties":{"a":{"not":{"type":"string"}}}}')
    with pytest.raises(Unsupported, match=r"'f'.*'not'"):
        dialect.grammar([bad], ToolChoice("required"))
    for schema in ('{"type":"string"}', "false", "[]"):
        with pytest.raises(RequestError, match="'f'"):
            dialect.grammar([Tool("f", parameters=schema)], ToolChoice("required"))


def test_a_tool_that_is_not_there_is_named() -> None:
    for choice, tools in ((ToolChoice("required", "f"), TOOLS), (ToolChoice("required"), [])):
        with pytest.raises(RequestError, match="there (is no tool named 'f'|are no tools)"):
            DIALECTS[0].grammar(tools, choice)


def test_strings_in_tags_have_the_length_and_values_of_the_schema() -> None:
    dialect = next(dialect for dialect in DIALECTS if dialect.name == "seed")
    sized = tool("f", "a", a={"type": "string", "minLength": 2, "maxLength": 3})
    native = matcher(dialect.grammar([sized], ToolChoice("required")))
    call = "<seed:tool_call>\n<function=f>\n<parameter=a>{}</parameter>\n</function>\n</seed:tool_call>"
    assert [accepts(native, call.format(text)) for text in ("a", "ab", "abc", "abcd")] == [False, True, True, False]
    chosen = matcher(dialect.grammar([tool("f", "a", a={"enum": ["x", 1, None]})], ToolChoice("required")))
    assert [accepts(chosen, call.format(text)) for text in ("x", "1", "null", "y")] == [True, True, True, False]


def test_patterns_of_strings_in_tags_are_refused_where_they_are_strict() -> None:
    dialect = next(dialect for dialect in DIALECTS if dialect.name == "seed")
    patterned = {"type": "string", "pattern": "^a"}
    dialect.grammar([tool("f", "a", a=patterned)], ToolChoice("required"))
    with pytest.raises(Unsupported, match="'pattern'"):
        dialect.grammar([tool("f", "a", a=patterned, strict=True)], ToolChoice("required"))
