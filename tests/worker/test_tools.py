"""Tools with the demo model, which was never trained to call: what must be a call is one, and thoughts end in time."""

import json
import re

import msgspec
import pytest

from shimmy.core.errors import RequestError
from shimmy.core.events import Event, Finished, ReasoningDelta, TextDelta, ToolCallDelta
from shimmy.core.request import Chat, Constraint, Generation, Message, Reasoning, Sampling, Tool, ToolChoice
from shimmy.worker.chat import plan, template
from shimmy.worker.engine import Engine
from tests.worker.test_engine import GREEDY, Session

pytestmark = pytest.mark.model

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS = [
    Tool("get_weather", "The weather in a city", json.dumps(WEATHER)),
    Tool("get_time", "What time it is"),
]
# An integer without limits has no end where tokens are drawn at random.
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}
NUMBER = {"type": "object", "properties": {"n": DIGIT}, "required": ["n"], "additionalProperties": False}
ANSWER = Constraint("json_schema", json.dumps(NUMBER), "response_format")


def ask(choice: ToolChoice = ToolChoice(), *, tools: list[Tool] = TOOLS, **fields: object) -> Chat:  # noqa: B008
    return Chat([Message("user", "What is the weather in Paris?")], tools=tools, tool_choice=choice, **fields)  # type: ignore[arg-type]


def calls_of(events: list[Event], name: str) -> list[tuple[str, str]]:
    found: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, ToolCallDelta) and event.id == name:
            found.setdefault(event.call, [event.name or ""]).append(event.arguments)
    return [(called, "".join(arguments)) for called, *arguments in found.values()]


def thoughts_of(events: list[Event], name: str) -> str:
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta) and event.id == name)


def is_weather(arguments: str) -> bool:
    given = json.loads(arguments)
    return list(given) == ["city", "unit"] and given["unit"] in ("celsius", "fahrenheit") and len(given["city"]) <= 20


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=1), Sampling(seed=2, temperature=2.0, top_k=0, top_p=1)])
def test_a_call_that_must_come_comes_and_meets_its_schema(engine: Engine, sampling: Sampling) -> None:
    session = Session(engine)
    one = ToolChoice("required", parallel=False)
    session.submit("any", ask(one), sampling=sampling, max_tokens=200)
    session.submit(
        "named", ask(ToolChoice("required", "get_weather", parallel=False)), sampling=sampling, max_tokens=200
    )
    session.submit("beside", Chat([Message("user", "What is the capital of Japan?")]), sampling=GREEDY, max_tokens=30)
    session.run()
    assert session.text("beside") == "The capital of Japan is Tokyo."
    for name in ("any", "named"):
        ((called, arguments),) = calls_of(session.events, name)
        assert called == "get_weather" or name == "any"
        assert is_weather(arguments) if called == "get_weather" else json.loads(arguments) == {}
        assert (session.finished(name).reason, session.finished(name).warning) == ("tool_calls", None)
        assert session.text(name) == ""


def test_a_call_or_an_answer(engine: Engine) -> None:
    """With both a schema and tools, what comes is one or the other."""
    session = Session(engine)
    for number in range(4):
        sampling = Sampling(seed=number, temperature=3.0, top_k=0, top_p=1.0, min_p=0.0)
        session.submit(f"{number}", ask(), sampling=sampling, max_tokens=300, constraint=ANSWER)
    session.run()
    reasons = [session.finished(f"{number}").reason for number in range(4)]
    for number, reason in enumerate(reasons):
        if reason == "stop":
            assert list(json.loads(session.text(f"{number}"))) == ["n"]
        elif reason == "tool_calls":
            assert calls_of(session.events, f"{number}")
    # Spaces, too, are drawn at random, so that one of them or another may be cut.
    assert reasons.count("length") < 4


def test_tools_that_may_be_called_need_not_be(engine: Engine) -> None:
    session = Session(engine)
    session.submit("a", ask(), sampling=GREEDY, max_tokens=60)
    session.run()
    assert session.text("a") or calls_of(session.events, "a")


def test_a_strict_tool_that_need_not_be_called_gets_what_its_schema_says(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo model has no token that begins calls; a test has to begin one for it, up to where arguments begin."""
    session = Session(engine)
    opening = engine._model.tokenize('<tool_call>\n{"name": "go", "arguments":', add_special=False)
    planned = plan.Planner.of

    def begun(self: plan.Planner, generation: Generation, prompt: str) -> plan.Plan | None:
        found = planned(self, generation, prompt)
        assert found is not None
        return msgspec.structs.replace(found, budget=0, skip=tuple(opening))

    monkeypatch.setattr(plan.Planner, "of", begun)
    way = {"type": "object", "properties": {"to": {"enum": ["a", "b"]}}, "required": ["to"]}
    schema = json.dumps(way | {"additionalProperties": False})
    wild = Sampling(seed=1, temperature=3.0, top_k=0, top_p=1.0, min_p=0.0)
    for name, strict in (("strict", True), ("loose", False)):
        tools = [Tool("go", parameters=schema, strict=strict)]
        session.submit(name, ask(tools=tools), sampling=wild, max_tokens=len(opening) + 32)
    session.run()
    # As far as there was room for them.
    met = re.compile(r'\{\s*("to"\s*(:\s*("[ab]"\s*\}?)?)?)?')
    ((called, arguments),) = calls_of(session.events, "strict")[:1]
    assert called == "go" and met.fullmatch(arguments), arguments
    assert not [1 for _, arguments in calls_of(session.events, "loose") if met.fullmatch(arguments)]


@pytest.mark.parametrize("grammar", ["root ::= [a-z]+", "start: /[a-z]+/"])
def test_a_grammar_and_calls_that_may_come_do_not_go_together(engine: Engine, grammar: str) -> None:
    generation = Generation(id="a", model="m", prompt=ask(), constraint=Constraint("grammar", grammar, "grammar"))
    with pytest.raises(RequestError, match="not together with grammar") as caught:
        Session(engine).prompter.prepare(generation)
    assert caught.value.param == "tools"


THINKING = template.CHATML.removesuffix("{% endif %}") + "<think>\n{% endif %}"


@pytest.fixture
def thinking(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Session:
    """The demo model with a template that begins thoughts, as those of DeepSeek R1 and QwQ do."""
    session = Session(engine)
    session.prompter._template = template.ChatTemplate(THINKING, bos_token="", eos_token="<|im_end|>")
    session.prompter._planner = plan.Planner(THINKING, engine._model)
    return session


def test_thoughts_end_when_their_budget_is_spent(thinking: Session) -> None:
    question = Chat([Message("user", "What is the capital of Japan?")], reasoning=Reasoning(budget_tokens=5))
    thinking.submit("a", question, sampling=GREEDY, max_tokens=30)
    thinking.run()
    tokens = thinking.loop._piece
    assert tokens is not None and thoughts_of(thinking.events, "a")
    assert thinking.finished("a").usage.reasoning_tokens == 5 + len(_close(thinking))
    assert "</think>" not in thinking.text("a") and thinking.text("a")


def _close(session: Session) -> list[int]:
    planner = session.prompter._planner
    assert planner is not None
    return planner._vocabulary.tokenize("</think>", add_special=False)


@pytest.mark.parametrize("budget", [0, 4])
def test_what_an_answer_must_be_holds_after_the_thoughts_and_not_in_them(thinking: Session, budget: int) -> None:
    question = "Think about Paris, then answer."
    prompt = Chat([Message("user", question)], reasoning=Reasoning(budget_tokens=budget))
    thinking.submit("a", prompt, sampling=GREEDY, max_tokens=80, constraint=ANSWER, logprobs=0)
    called = Chat(prompt.messages, TOOLS, ToolChoice("required", parallel=False), Reasoning(budget_tokens=budget))
    thinking.submit("b", called, sampling=GREEDY, max_tokens=200)
    thinking.run()
    assert list(json.loads(thinking.text("a"))) == ["n"]
    assert len(calls_of(thinking.events, "b")) == 1 and thinking.text("b") == ""
    assert [thinking.finished(name).reason for name in "ab"] == ["stop", "tool_calls"]
    for name in "ab":
        assert bool(thoughts_of(thinking.events, name)) == (budget > 0)
    told = [event for event in thinking.events if isinstance(event, TextDelta | ReasoningDelta) and event.id == "a"]
    finished: Finished = thinking.finished("a")
    assert sum(len(event.tokens) for event in told) == finished.usage.completion_tokens
