"""What a planner does once for the same tools."""

from typing import Any

import pytest

from shimmy.core.errors import RequestError
from shimmy.core.request import Chat, Generation, Message, Tool, ToolChoice
from shimmy.worker.chat.plan import Planner
from shimmy.worker.chat.toolcalls.hermes import HERMES

NUMBER = '{"type":"object","properties":{"n":{"type":"number"}}}'
TEXT = '{"type":"object","properties":{"n":{"type":"string"}}}'


class Letters:
    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        return list(map(ord, text))

    def control_token(self, text: str) -> int | None:
        return None


def lark(planner: Planner, *tools: Tool, **choice: Any) -> str:
    prompt = Chat([Message("user", "hi")], tools=list(tools), tool_choice=ToolChoice("required", **choice))
    plan = planner.of(Generation(id="1", model="m", prompt=prompt), "..")
    assert plan is not None and plan.calls is not None
    return plan.calls.lark


def test_the_grammar_of_the_same_tools_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = type(HERMES).grammar

    def counted(self: Any, *arguments: Any) -> str:
        made.append(make(self, *arguments))
        return made[-1]

    monkeypatch.setattr(type(HERMES), "grammar", counted)
    planner, f = Planner("<tool_call>", Letters()), Tool("f", parameters=NUMBER)
    assert lark(planner, f) == lark(planner, Tool("f", parameters=NUMBER)) == made[0] and len(made) == 1
    # Everything that is in it tells one from another.
    others = [
        lark(planner, Tool("g", parameters=NUMBER)),
        lark(planner, Tool("f", parameters=TEXT)),
        lark(planner, f, parallel=False),
        lark(planner, f, Tool("g", parameters=NUMBER)),
        lark(planner, f, Tool("g", parameters=NUMBER), name="g"),
    ]
    assert len(made) == 6 and len({made[0], *others[1:]}) == 5


def test_what_cannot_be_enforced_is_refused_each_time() -> None:
    planner, bad = Planner("<tool_call>", Letters()), Tool("f", parameters='{"type":"object","not":{}}')
    for _ in range(2):
        with pytest.raises(RequestError, match=r"tools\[0\]"):
            lark(planner, bad)
