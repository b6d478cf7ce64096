"""Thoughts, calls and content on their way through the loop, from a model that says what a test tells it to say."""

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RequestError
from shimmy.core.events import Event, Failed, Finished, ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta
from shimmy.core.request import Chat, Constraint, Generation, Message, Reasoning, Tool, ToolChoice
from shimmy.worker.chat.plan import Plan, Planner
from shimmy.worker.sequence import Request
from tests.worker.test_loop import Bench

QWEN = "{{ '<think>' }}{{ '</think>' }}{{ '<tool_call>' }}"
LLAMA = "<|python_tag|>"
SPELLED = "{{ '<tool_call>' }}"
END = "<end>"
# Control tokens add nothing to a text; "<think>" is one here, "<tool_call>" is not, and "</think>" is no token at all.
CONTROL = ["<think>", "<|other|>"]
SPECIAL = [END, *CONTROL, "<tool_call>", "</tool_call>", "</", "think", ">"]
TOOLS = [Tool("f"), Tool("g", strict=True)]


class Words:
    """A vocabulary of whatever a test says, and of all characters."""

    def __init__(self) -> None:
        self.texts = list(SPECIAL)

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        pattern = "|".join([*map(re.escape, sorted(self.texts, key=len, reverse=True)), "."])
        return [self.token(found) for found in re.findall(pattern, text, re.DOTALL)]

    def token(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text)

    def control_token(self, text: str) -> int | None:
        return self.token(text) if text in CONTROL else None

    def piece(self, token: int) -> bytes | None:
        text = self.texts[token]
        return None if text == END else b"" if text in CONTROL else text.encode()


class Script:
    """A sampler that draws what stands there, and notes what it is told."""

    def __init__(self, words: Words, says: list[str]) -> None:
        self._words = words
        self._says = says
        self._records: list[TokenLogprob] = []
        self.forced: list[str] = []
        self.began_after: int | None = None
        self.held: list[tuple[int, str, str]] = []
        self.num_sampled = 0
        self.is_complete = False

    def sample(self, context: int, row: int) -> int:
        token = self._words.token(self._says[self.num_sampled] if self.num_sampled < len(self._says) else END)
        self.num_sampled += 1
        self._record(token)
        return token

    def force(self, context: int, row: int, token: int) -> None:
        self.forced.append(self._words.texts[token])
        self._record(token)

    def begin_answer(self) -> None:
        self.began_after = self.num_sampled

    def hold(self, name: str, text: str) -> None:
        self.held.append((self.num_sampled, name, text))

    def is_met(self, text: str, *, is_cut: bool) -> bool:
        return True

    def take_logprob(self) -> TokenLogprob:
        return self._records.pop(0)

    def tell(self, context: int, row: int, token: int) -> TokenLogprob:
        raise AssertionError("no prompt is told")

    def free(self) -> None:
        pass

    def _record(self, token: int) -> None:
        self._records.append(TokenLogprob(self._words.piece(token) or b"", -1.0))


class Answered:
    """What came of one request."""

    def __init__(self, events: list[Event], sampler: Script) -> None:
        self.events = events
        self.sampler = sampler
        (self.finished,) = [event for event in events if isinstance(event, Finished)]
        self.text = "".join(event.text for event in events if isinstance(event, TextDelta))
        self.thoughts = "".join(event.text for event in events if isinstance(event, ReasoningDelta))
        told = [event for event in events if isinstance(event, TextDelta | ReasoningDelta)]
        self.tokens = [token.bytes.decode() for event in told for token in event.tokens]

    @property
    def calls(self) -> list[tuple[str | None, str]]:
        found: dict[int, tuple[str | None, str]] = {}
        for event in self.events:
            if isinstance(event, ToolCallDelta):
                name, arguments = found.get(event.call, (event.name, ""))
                found[event.call] = name, arguments + event.arguments
        return list(found.values())


def chat(**fields: Any) -> Chat:
    return Chat([Message("user", "hi")], **fields)


def planned(prompt: Chat, *, rendered: str = "..", template: str | None = QWEN, **fields: Any) -> Plan | None:
    generation = Generation(id="1", model="m", prompt=prompt, **fields)
    return Planner(template, Words()).of(generation, rendered)


def answered(
    says: list[str],
    prompt: Chat,
    *,
    rendered: str = "..",
    template: str | None = QWEN,
    template_stops: list[str] | None = None,
    **fields: Any,
) -> Answered:
    words, bench = Words(), Bench()
    sampler = Script(words, says)
    bench.loop._piece = words.piece
    bench.loop._make_sampler = lambda sampling, request, choice: sampler
    generation = Generation(id="a", model="m", prompt=prompt, **{"max_tokens": 200, **fields})
    plan = Planner(template, words).of(generation, rendered)
    stops = generation.stop if plan is None else template_stops or []
    bench.commands.put(Request(generation, [1, 2, 3], stops, 1.0, plan=plan))
    bench.drain()
    assert not [event for event in bench.events if isinstance(event, Failed)]
    return Answered(bench.events, sampler)


CALL = ["<tool_call>", '{"name": "f", ', '"arguments": {"a"', ": 1}", "}", "</tool_call>"]


def test_thoughts_content_and_calls() -> None:
    says = ["<think>", "so ", "so", "</", "think", ">", "\n\n", "Yes", ".", "\n", *CALL]
    found = answered(says, chat(tools=TOOLS))
    assert (found.thoughts, found.text.strip(), found.calls) == ("so so", "Yes.", [("f", '{"a": 1}')])
    assert found.finished.reason == "tool_calls"
    assert found.finished.usage.reasoning_tokens == 5
    assert found.finished.usage.completion_tokens == len(says)
    (begun,) = [event for event in found.events if isinstance(event, ToolCallDelta) and event.name]
    assert re.fullmatch("call_[0-9a-f]{24}", begun.call_id or "")


@given(st.lists(st.integers(0, 400), max_size=40))
def test_any_split_into_tokens_gives_the_same(cuts: list[int]) -> None:
    text = "<think>so\n</think>\nYes <b> é.\n" + "".join(CALL) + "".join(CALL)
    edges = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    says = [text[start:end] for start, end in zip(edges, edges[1:], strict=False)]
    found = answered(says, chat(tools=TOOLS))
    assert (found.thoughts, found.text.strip()) == ("so", "Yes <b> é.")
    assert found.calls == [("f", '{"a": 1}')] * 2


def test_an_answer_without_tools_or_thoughts_is_read_as_ever() -> None:
    assert planned(chat(), template="{{ messages }}") is None
    assert planned(chat(tools=TOOLS, tool_choice=ToolChoice("none")), template="{{ messages }}") is None
    says = ["<think>", "<|other|>", "Yes", "<tool_call>"]
    found = answered(says, chat(), template="{{ messages }}")
    assert (found.text, found.calls) == ("Yes<tool_call>", [])


def test_control_tokens_are_text_only_where_they_mark_something() -> None:
    found = answered(["<think>", "<|other|>", "so", "</think>", "<|other|>", "Yes"], chat())
    assert (found.thoughts, found.text) == ("so", "Yes")


def test_raw_thoughts_stay_in_the_text_and_are_counted() -> None:
    says = ["<think>", "so ", *CALL, "</think>", "Yes"]
    found = answered(says, chat(tools=TOOLS, reasoning=Reasoning(is_raw=True)))
    assert found.text == "<think>so " + "".join(CALL) + "</think>Yes"
    assert (found.thoughts, found.calls) == ("", [])
    assert found.finished.usage.reasoning_tokens == 2 + len(CALL)


@pytest.mark.parametrize(("budget", "thoughts"), [(1, "a"), (3, "abc")])
@pytest.mark.parametrize("is_open", [True, False])
def test_a_spent_budget_ends_the_thoughts(budget: int, thoughts: str, is_open: bool) -> None:
    says = [*([] if is_open else ["<think>"]), *thoughts, "Yes"]
    prompt = chat(reasoning=Reasoning(budget_tokens=budget))
    found = answered(says, prompt, rendered="<think>\n" if is_open else "..")
    assert (found.thoughts, found.text) == (thoughts, "Yes")
    assert found.sampler.forced == ["</", "think", ">"]
    assert found.finished.usage.reasoning_tokens == budget + 3


def test_no_budget_ends_them_before_they_begin() -> None:
    for reasoning in (Reasoning(budget_tokens=0), Reasoning(enabled=False)):
        found = answered(["Yes"], chat(reasoning=reasoning), rendered="<think>\n")
        assert (found.thoughts, found.text, found.sampler.forced) == ("", "Yes", ["</", "think", ">"])
        found = answered(["<think>", "Yes"], chat(reasoning=reasoning))
        assert (found.thoughts, found.text) == ("", "Yes")
        found = answered(["Yes"], chat(reasoning=reasoning))
        assert (found.text, found.sampler.forced) == ("Yes", [])


def test_a_budget_that_is_not_spent_changes_nothing() -> None:
    found = answered(["<think>", "a", "</think>", "Yes"], chat(reasoning=Reasoning(budget_tokens=9)))
    assert (found.thoughts, found.text, found.sampler.forced) == ("a", "Yes", [])


SCHEMA = Constraint("json_object", "", "response_format")


def test_the_constraint_begins_when_the_thoughts_have_ended() -> None:
    found = answered(["<think>", "so", "</think>", "{}"], chat(), constraint=SCHEMA)
    assert (found.sampler.began_after, found.text) == (3, "{}")


def test_thoughts_that_would_go_on_to_the_end_are_closed_for_the_constraint() -> None:
    found = answered(["so", END, "{}"], chat(), rendered="<think>", constraint=SCHEMA)
    assert (found.thoughts, found.text, found.sampler.forced) == ("so", "{}", ["</", "think", ">"])
    assert answered(["so", END, "{}"], chat(), rendered="<think>").text == ""


def test_a_token_must_not_end_the_thoughts_and_begin_the_answer_unseen() -> None:
    found = answered(["so", "</", "think", ">{", "{}"], chat(), rendered="<think>", constraint=SCHEMA)
    assert (found.text, found.sampler.began_after) == ("{}", 4)


def test_stop_strings_are_for_the_content() -> None:
    says = ["<think>", "a STOP b", "</think>", "Yes", " ST", "OP", "more"]
    found = answered(says, chat(), stop=["STOP"])
    assert (found.thoughts, found.text, found.finished.stop) == ("a STOP b", "Yes ", "STOP")
    call = ["<tool_call>", '{"name": "f", "arguments": {"a": "STOP"}}', "</tool_call>"]
    found = answered(call, chat(tools=TOOLS), stop=["STOP"])
    assert (found.calls, found.finished.reason) == ([("f", '{"a": "STOP"}')], "tool_calls")


def test_no_stop_string_goes_on_behind_a_call() -> None:
    found = answered(["Yes ST", *CALL, "OP", " no"], chat(tools=TOOLS), stop=["STOP"])
    assert (found.text, found.finished.stop, found.finished.reason) == ("Yes STOP no", None, "tool_calls")


def test_what_is_held_back_leaves_when_the_template_ends_the_turn() -> None:
    for says, thoughts, text in ((["<think>", "so </"], "so </", ""), (["Yes <tool"], "", "Yes <tool")):
        found = answered([*says, "<|im", "_end|>", "more"], chat(tools=TOOLS), template_stops=["<|im_end|>"])
        assert (found.thoughts, found.text, found.finished.reason) == (thoughts, text, "stop")


@pytest.mark.parametrize("stop", [[], ["YES", "nox"]])
def test_every_token_is_told_once(stop: list[str]) -> None:
    says = ["<think>", "so", "</think>", "Y", "e", "s", "\n", *CALL, "n", "ope"]
    found = answered(says, chat(tools=TOOLS), logprobs=0, stop=stop)
    assert found.tokens == says


def test_tokens_of_a_stop_string_are_not_told() -> None:
    found = answered(["<think>", "so", "</think>", "Y", "es", " ST", "OP"], chat(), logprobs=0, stop=["STOP"])
    assert found.tokens == ["<think>", "so", "</think>", "Y", "es", " "]


def test_forced_tokens_are_told_and_the_one_they_replace_is_not() -> None:
    found = answered(["so", END, "{}"], chat(), rendered="<think>", constraint=SCHEMA, logprobs=0)
    assert found.tokens == ["so", "</", "think", ">", "{}"]


def test_a_call_that_was_cut_is_there_as_far_as_it_came() -> None:
    found = answered(CALL[:3], chat(tools=TOOLS), max_tokens=3)
    assert (found.finished.reason, found.calls) == ("length", [("f", '{"a"')])


@pytest.mark.parametrize("size", range(1, 9))
def test_a_mark_and_half_a_call_are_no_content_of_an_answer_that_was_cut(size: int) -> None:
    says = re.findall(".{1,4}", "".join(CALL))[:size]
    must = ToolChoice("required")
    found = answered(says, chat(tools=TOOLS, tool_choice=must), template=SPELLED, max_tokens=size)
    assert (found.text, found.finished.reason) == ("", "length")
    assert found.finished.warning == "the answer ended within a call"
    # What may yet become a mark may as well be text where there may be text.
    found = answered(["Yes.\n", *says], chat(tools=TOOLS), template=SPELLED, max_tokens=size + 1)
    is_marked = "<tool_call>" in "".join(says)
    assert found.text == ("Yes." if is_marked else "Yes.\n" + "".join(says))
    assert bool(found.finished.warning) == is_marked


def test_a_call_that_a_stop_token_cuts_is_no_content_either() -> None:
    for size, calls in ((2, []), (3, [("f", '{"a"')])):
        says = [*CALL[:size], "<stop>"]
        found = answered(says, chat(tools=TOOLS), stop_tokens=[len(SPECIAL) + size - 1])
        assert (found.text, found.calls, found.finished.reason) == ("", calls, "length")
        assert found.finished.warning == "the answer ended within a call"
    found = answered([*CALL, "<stop>"], chat(tools=TOOLS), stop_tokens=[len(SPECIAL) + 4])
    assert (found.calls, found.finished.reason, found.finished.warning) == ([("f", '{"a": 1}')], "tool_calls", None)


def test_whole_calls_before_the_cut_are_there() -> None:
    says = [*CALL, "\n", *CALL[:2]]
    found = answered(says, chat(tools=TOOLS, tool_choice=ToolChoice("required")), max_tokens=len(says))
    assert (found.text, found.calls, found.finished.reason) == ("", [("f", '{"a": 1}')], "length")
    assert found.finished.warning == "the answer ended within a call"


def test_a_strict_tool_is_held_from_where_its_arguments_begin() -> None:
    says = ["Yes\n", '{"name": "g", ', '"parameters":', ' {"a"', ": 1}", "}"]
    found = answered(says, chat(tools=TOOLS), template=LLAMA)
    assert found.sampler.held == [(3, "g", "")]
    # A token in which they begin is there already, and so is what may yet be the end of the turn.
    says = ['{"name": "g", "parameters": {"a<', '": 1}', "}"]
    found = answered(says, chat(tools=TOOLS), template=LLAMA, template_stops=["<|im_end|>"])
    assert found.sampler.held == [(1, "g", ' {"a<')]


def test_where_no_tool_is_strict_nothing_is_held() -> None:
    says = ['{"name": "f", "parameters": {"a', '": 1}', "}"]
    found = answered(says, chat(tools=[Tool("f")]), template=LLAMA)
    assert (found.calls, found.sampler.held) == ([("f", '{"a": 1}')], [])


def test_only_one_call_where_only_one_may_come() -> None:
    found = answered([*CALL, "\n", *CALL, "more"], chat(tools=TOOLS, tool_choice=ToolChoice(parallel=False)))
    assert (len(found.calls), found.finished.reason, found.finished.warning) == (1, "tool_calls", None)
    assert found.sampler.num_sampled < 2 * len(CALL) + 1


def test_what_cannot_be_read_is_content_with_a_warning() -> None:
    found = answered(["<tool_call>", "{oops", "</tool_call>"], chat(tools=TOOLS))
    assert "{oops" in found.text and found.calls == []
    assert found.finished.reason == "stop" and found.finished.warning


def test_ids_are_the_models_own_but_never_twice() -> None:
    from shimmy.worker.reply import Reply

    reply = Reply(Plan(), [])
    first, second, third = reply._id("x"), reply._id("x"), reply._id(None)
    assert first == "x" and len({first, second, third}) == 3


# gpt-oss, which tells its thoughts by channels.

HARMONY = "<|channel|> <|message|> functions."
CHANNELS = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"]


def in_channels(says: list[str], prompt: Chat, **fields: Any) -> Answered:
    return answered(says, prompt, template=HARMONY, **fields)


THOUGHT = ["<|channel|>", "analysis", "<|message|>", "so ", "so"]
FINAL = ["<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "Yes"]


@pytest.fixture(autouse=True)
def channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "CONTROL", [*CONTROL, *CHANNELS])
    monkeypatch.setitem(globals(), "SPECIAL", [*SPECIAL, *CHANNELS, "<|end|>"])


def test_channels_tell_thoughts_from_content() -> None:
    found = in_channels([*THOUGHT, "<|end|>", *FINAL], chat())
    assert (found.thoughts, found.text, found.finished.usage.reasoning_tokens) == ("so so", "Yes", 3)
    assert found.finished.reason == "stop"


def test_a_call_in_a_channel() -> None:
    header = ["<|start|>", "assistant", "<|channel|>", "commentary to=functions.f ", "<|constrain|>", "json"]
    found = in_channels([*THOUGHT, "<|end|>", *header, "<|message|>", '{"a": 1}'], chat(tools=TOOLS))
    assert (found.thoughts, found.calls, found.finished.reason) == ("so so", [("f", '{"a": 1}')], "tool_calls")


def test_a_budget_in_channels() -> None:
    found = in_channels([*THOUGHT, "Yes"], chat(reasoning=Reasoning(budget_tokens=2)))
    assert (found.thoughts, found.text) == ("so so", "Yes")
    assert "".join(found.sampler.forced) == "<|end|><|start|>assistant<|channel|>final<|message|>"
    found = in_channels(["Yes"], chat(reasoning=Reasoning(enabled=False)))
    assert (found.thoughts, found.text) == ("", "Yes")


def test_a_constraint_in_channels_begins_with_the_final_message() -> None:
    says = [*THOUGHT, "<|end|>", *FINAL[:-1], "{}"]
    found = in_channels(says, chat(), constraint=SCHEMA)
    assert (found.sampler.began_after, found.text) == (len(says) - 1, "{}")
    plan = planned(chat(tools=TOOLS), template=HARMONY, constraint=SCHEMA)
    assert plan and plan.calls is None and plan.terms and plan.terms.is_thinking
    required = planned(chat(tools=TOOLS, tool_choice=ToolChoice("required")), template=HARMONY)
    assert required and required.calls and required.terms and not required.terms.is_thinking


@pytest.mark.parametrize(
    "header",
    [
        ["<|start|>", "assistant", "<|channel|>", "commentary to=functions.f ", "<|constrain|>", "json"],
        ["<|start|>", "assistant", " to=functions.f", "<|channel|>", "commentary"],
    ],
)
def test_a_call_in_a_channel_is_not_what_the_answer_must_be(header: list[str]) -> None:
    says = [*THOUGHT, "<|end|>", *header, "<|message|>", '{"a": 1}']
    found = in_channels(says, chat(tools=TOOLS), constraint=SCHEMA)
    assert (found.calls, found.finished.reason) == ([("f", '{"a": 1}')], "tool_calls")
    assert found.sampler.began_after is None


# What tools must be.


def test_who_must_call_is_held_to_a_grammar() -> None:
    plan = planned(chat(tools=TOOLS, tool_choice=ToolChoice("required")))
    assert plan and plan.calls and plan.terms
    assert plan.calls.lark.startswith("start:") and plan.calls.field == "tool_choice"
    assert plan.terms.callers is None and plan.terms.is_calls and not plan.terms.is_thinking
    assert plan.terms.openers == {1}
    thinking = planned(chat(tools=TOOLS, tool_choice=ToolChoice("required")), rendered="<think>")
    assert thinking and thinking.terms and thinking.terms.is_thinking


def test_who_may_call_is_held_from_where_a_call_begins_if_it_is_strict() -> None:
    plan = planned(chat(tools=TOOLS))
    assert plan and plan.terms and plan.terms.callers == frozenset([SPECIAL.index("<tool_call>")])
    loose = planned(chat(tools=TOOLS[:1]))
    assert loose and loose.terms is None and loose.calls is None


def test_an_answer_may_be_there_instead_of_calls() -> None:
    plan = planned(chat(tools=TOOLS[:1]), constraint=SCHEMA)
    assert plan and plan.calls and plan.calls.or_answer and plan.terms and plan.terms.callers is None
    required = planned(chat(tools=TOOLS, tool_choice=ToolChoice("required")), constraint=SCHEMA)
    assert required and required.calls and not required.calls.or_answer


BAD = '{"type": "object", "properties": {"a": {"not": {}}}}'


@pytest.mark.parametrize(
    ("tools", "choice", "refused"),
    [
        ([Tool("f"), Tool("g", parameters=BAD)], ToolChoice("required"), True),
        ([Tool("f"), Tool("g", parameters=BAD)], ToolChoice("required", "f"), False),
        ([Tool("f"), Tool("g", parameters=BAD)], ToolChoice(), False),
        ([Tool("f"), Tool("g", parameters=BAD, strict=True)], ToolChoice(), True),
        ([Tool("f"), Tool("g", parameters=BAD, strict=True)], ToolChoice("none"), False),
    ],
)
def test_parameters_that_must_be_enforced_and_cannot_be(tools: list[Tool], choice: ToolChoice, refused: bool) -> None:
    if not refused:
        planned(chat(tools=tools, tool_choice=choice))
        return
    with pytest.raises(RequestError) as caught:
        planned(chat(tools=tools, tool_choice=choice))
    assert caught.value.param == "tools[1].function.parameters"


def test_where_no_token_begins_calls_the_arguments_of_strict_tools_are_held() -> None:
    for template in ("[func_name1(", LLAMA, HARMONY):
        plan = planned(chat(tools=TOOLS), template=template)
        assert plan and plan.calls and plan.terms and plan.terms.callers is None
        assert plan.terms.held == plan.calls.held == frozenset(["g"])
        loose = planned(chat(tools=TOOLS[:1]), template=template)
        assert loose and loose.calls is None and loose.terms is None


STRICT = (
    '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}'
)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("a=1", None),
        ("a='x'", "'a' is not what it must be"),
        ("", "'a' is missing"),
        ("a=1, b=2", "there is no 'b'"),
    ],
)
def test_a_call_of_a_strict_tool_is_looked_at_afterwards(arguments: str, reason: str | None) -> None:
    tools = [Tool("f", parameters=STRICT, strict=True)]
    found = answered(["[", "f(", arguments, ")", "]"], chat(tools=tools), template="[func_name1(")
    assert found.finished.reason == "tool_calls" and len(found.calls) == 1
    expected = None if reason is None else f"the arguments of 'f' do not meet its schema: {reason}"
    assert found.finished.warning == expected


def test_pieces_are_the_control_tokens_among_the_marks() -> None:
    plan = planned(chat(tools=TOOLS))
    pieces: Mapping[int, bytes] = plan.pieces if plan else {}
    assert pieces == {SPECIAL.index("<think>"): b"<think>"}
