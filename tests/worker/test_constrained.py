"""Constrained answers of the demo model, side by side with others."""

import json
import re
from typing import Any

import pytest

from shimmy.core.errors import RequestError
from shimmy.core.events import Failed, Finished, TextDelta
from shimmy.core.request import Constraint, Sampling
from shimmy.worker.constraints.few import Few
from shimmy.worker.engine import Engine
from shimmy.worker.llama import guided
from tests.worker.test_engine import GREEDY, Session, ask

pytestmark = pytest.mark.model

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["human", "robot"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
SCHEMA = Constraint("json_schema", json.dumps(PERSON), "response_format")
DATE = Constraint("regex", r"\d{4}-\d{2}-\d{2}", "regex")
COLOUR = Constraint("choice", '["red", "green", "blue"]', "choice")
LIST = Constraint("grammar", 'root ::= "- " word ("\\n- " word){2}\nword ::= [a-z]{3,12}', "grammar")
BOB = ask("Tell me about Bob, who is 30.")


def is_person(text: str) -> bool:
    person = json.loads(text)
    return list(person) == ["name", "age", "kind"] and len(person["name"]) <= 20 and 0 <= person["age"] <= 120


def fullmatch(pattern: str) -> Any:
    return lambda text: re.fullmatch(pattern, text)


CHECKS = [
    (SCHEMA, is_person),
    (DATE, fullmatch(r"\d{4}-\d{2}-\d{2}")),
    (COLOUR, fullmatch("red|green|blue")),
    (LIST, fullmatch("- [a-z]{3,12}(\n- [a-z]{3,12}){2}")),
]

SAMPLINGS = {
    "greedy": GREEDY,
    "default": Sampling(seed=1),
    "hot, from all": Sampling(seed=2, temperature=2.0, top_k=0, top_p=1.0, min_p=0.0),
    "mirostat": Sampling(seed=3, mirostat=2),
    "penalties": Sampling(seed=4, repetition_penalty=1.3, frequency_penalty=0.5, dry_multiplier=0.8),
    "bias and bans": Sampling(seed=5, logit_bias={260: 20.0}, bad_words=["Bob"], min_tokens=3),
    "no end": Sampling(seed=6, ignore_eos=True),
}


@pytest.mark.parametrize("name", SAMPLINGS)
def test_answers_of_one_batch_meet_their_constraints(engine: Engine, name: str) -> None:
    session = Session(engine)
    for number, (constraint, _) in enumerate(CHECKS):
        session.submit(f"{number}", BOB, max_tokens=400, sampling=SAMPLINGS[name], constraint=constraint)
    session.run()
    for number, (_, check) in enumerate(CHECKS):
        assert session.finished(f"{number}").reason == "stop"
        assert check(session.text(f"{number}")), session.text(f"{number}")


def test_a_neighbour_without_a_constraint_does_not_notice(engine: Engine) -> None:
    session = Session(engine)
    session.submit("plain", ask("What is the capital of Japan?"), max_tokens=40, sampling=GREEDY)
    for number, constraint in enumerate((SCHEMA, LIST)):
        session.submit(f"{number}", ask("Hi"), max_tokens=40, sampling=Sampling(seed=1), constraint=constraint)
    session.run()
    assert session.text("plain") == "The capital of Japan is Tokyo."


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(seed=9, frequency_penalty=0.4)], ids=["greedy", "drawn"])
def test_a_constraint_that_allows_everything_changes_nothing(engine: Engine, sampling: Sampling) -> None:
    """Also not how the penalties count, nor what is drawn from the seed."""
    texts = []
    for constraint in (None, Constraint("regex", r"(.|\n)*", "regex")):
        # One after the other, since the last bit of a logit depends on what else is in a batch.
        session = Session(engine)
        session.submit("a", BOB, max_tokens=40, sampling=sampling, constraint=constraint)
        session.run()
        texts.append(session.text("a"))
    assert texts[0] == texts[1] != ""


def test_choices_of_one_request_go_their_own_ways(engine: Engine) -> None:
    session = Session(engine)
    session.submit(
        "a", BOB, max_tokens=400, num_choices=4, sampling=Sampling(seed=1, temperature=1.2), constraint=SCHEMA
    )
    session.run()
    texts = [session.text("a", index) for index in range(4)]
    assert all(map(is_person, texts)) and len(set(texts)) > 1
    assert {session.finished("a", index).reason for index in range(4)} == {"stop"}


def test_an_answer_that_was_cut_says_so(engine: Engine) -> None:
    session = Session(engine)
    session.submit("limit", BOB, max_tokens=5, sampling=GREEDY, constraint=SCHEMA)
    session.submit("stop string", BOB, stop=['"age'], sampling=GREEDY, constraint=SCHEMA)
    # Every token with a colon, of which a JSON object with a field has one.
    vocabulary = engine.prompter()._vocabulary
    colons = [token for token in range(48_000) if b":" in (engine._model.piece(token) or b"")]
    session.submit("stop token", BOB, stop_tokens=colons, sampling=GREEDY, constraint=SCHEMA)
    word = Constraint("regex", "[a-z]{3}", "regex")
    letters = [vocabulary.tokenize(letter, add_special=False)[0] for letter in "abcdefghijklmnopqrstuvwxyz"]
    session.submit("last token", BOB, stop_tokens=letters, sampling=Sampling(seed=1, bad_words=[]), constraint=word)
    session.run()
    assert len(session.text("last token")) == 3 or session.finished("last token").reason == "length"
    for name in ("limit", "stop string", "stop token"):
        assert session.finished(name).reason == "length"
        with pytest.raises(ValueError):
            json.loads(session.text(name))
    assert session.finished("stop string").stop == '"age'


def test_an_answer_that_is_whole_when_it_was_cut_is_whole(engine: Engine) -> None:
    session = Session(engine)
    session.submit("a", BOB, stop=["!"], sampling=GREEDY, constraint=Constraint("regex", "[a-z]{3}!*", "regex"))
    # The last token that there may be is the last that there is.
    session.submit("b", BOB, max_tokens=1, sampling=GREEDY, constraint=Constraint("choice", '["a"]', "choice"))
    session.run()
    assert session.finished("a").reason == "stop" and re.fullmatch("[a-z]{3}", session.text("a"))
    assert (session.text("b"), session.finished("b").reason) == ("a", "stop")


def test_log_probabilities_are_those_of_the_model(engine: Engine) -> None:
    session = Session(engine)
    session.submit("a", BOB, max_tokens=60, sampling=GREEDY, constraint=COLOUR, logprobs=3)
    session.run()
    tokens = [token for event in session.events if isinstance(event, TextDelta) for token in event.tokens]
    assert b"".join(token.bytes for token in tokens).decode() == session.text("a")
    # What it would rather have said is there, too.
    assert (tokens[0].logprob or 0.0) < tokens[0].top[0].logprob


def test_what_cannot_go_on_fails_alone(engine: Engine) -> None:
    session = Session(engine)
    hostile = Constraint("regex", "ab(.{1,1000}){1,1000}x", "guided_regex")
    session.submit("hostile", BOB, num_choices=2, sampling=GREEDY, constraint=hostile)
    session.submit("other", BOB, max_tokens=400, sampling=GREEDY, constraint=SCHEMA)
    session.run()
    (failed,) = (event for event in session.events if isinstance(event, Failed))
    assert (failed.id, failed.fault.code, failed.fault.param) == ("hostile", "invalid_request", "guided_regex")
    assert is_person(session.text("other"))
    assert [event.id for event in session.events if isinstance(event, Finished)] == ["other"]


def test_a_constraint_that_is_wrong_is_refused_before_it_runs(engine: Engine) -> None:
    session = Session(engine)
    wrong = Constraint("json_schema", '{"properties": {"a": {"not": {}}}}', "response_format.json_schema.schema")
    with pytest.raises(RequestError, match="#/properties/a/not") as raised:
        session.submit("a", BOB, constraint=wrong)
    assert raised.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize(
    ("is_few", "top_k", "num_likeliest"), [(True, 40, 128), (False, 40, 128), (False, 0, 128), (False, 0, 1)]
)
def test_every_way_to_draw_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, is_few: bool, top_k: int, num_likeliest: int
) -> None:
    """From few that may come; from what the chain has kept or, without top_k, has left; from the likeliest; from all
    after all, since the likeliest one was refused already."""
    few = Few(guided.MAX_FEW if is_few else 0)
    monkeypatch.setattr(guided, "_few", lambda: few)
    monkeypatch.setattr(guided, "NUM_KEPT", num_likeliest)
    monkeypatch.setattr(guided, "MAX_SORTED", num_likeliest)
    session = Session(engine)
    for number, (constraint, _) in enumerate(CHECKS):
        session.submit(f"{number}", BOB, max_tokens=400, sampling=Sampling(seed=8, top_k=top_k), constraint=constraint)
    session.run()
    for number, (_, check) in enumerate(CHECKS):
        assert session.finished(f"{number}").reason == "stop"
        assert check(session.text(f"{number}")), session.text(f"{number}")
