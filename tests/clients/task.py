"""What every client is asked, and what it must give: the features of the matrix, each with its check."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from tests.models import minilm
from tests.program import DEMO_ID

EMBEDDER = "all-minilm-l6-v2.f16"
ANSWER = "The capital of Japan is Tokyo."
UNKNOWN = "no-such-model"
PUBLISHED = minilm.SIMILARITIES

TASK: dict[str, Any] = {
    "model": DEMO_ID,
    "unknown": UNKNOWN,
    "embedder": EMBEDDER,
    "question": "What is the capital of Japan?",
    "weather": "What is the weather in Paris?",
    "output": "12 degrees",
    "describe": "Describe Bob, 30, who likes chess.",
    "sentences": minilm.SENTENCES,
    "tool": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
    "schema": {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
}


def _lists(gave: Any) -> bool:
    names = [name.removesuffix(":latest") for name in gave]
    return DEMO_ID in names


def _streams(gave: Any) -> bool:
    return len(gave) > 1 and "".join(gave) == ANSWER


def _calls(gave: Any) -> bool:
    """The small model likes to call twice, where nothing forbids it."""
    return bool(gave) and all(call["name"] == "get_weather" and list(call["arguments"]) == ["city"] for call in gave)


def _describes(gave: Any) -> bool:
    return set(gave) == {"name", "age"} and isinstance(gave["name"], str) and isinstance(gave["age"], int)


def cosines(vectors: Sequence[Sequence[float]]) -> list[float]:
    """How near the sentences are to each other, pair by pair, whatever the length of the vectors."""

    def product(one: int, other: int) -> float:
        return math.fsum(a * b for a, b in zip(vectors[one], vectors[other], strict=True))

    return [product(*pair) / math.sqrt(product(pair[0], pair[0]) * product(pair[1], pair[1])) for pair in PUBLISHED]


def _embeds(gave: Any) -> bool:
    return all(abs(found - each) < 0.002 for found, each in zip(cosines(gave), PUBLISHED.values(), strict=True))


def _refuses(gave: Any) -> bool:
    return UNKNOWN in gave["message"] and gave["status"] in (404, None)


# The columns of the matrix: what a script's function of this name gives, as JSON.
CHECKS: dict[str, Callable[[Any], bool]] = {
    "models": _lists,
    "chat": lambda gave: bool(gave == ANSWER),
    "stream": _streams,
    "usage": lambda gave: bool(gave == [37, 7]),
    "tools": _calls,
    "results": lambda gave: isinstance(gave, str) and bool(gave.strip()),
    "schema": _describes,
    "embed": _embeds,
    "error": _refuses,
}

AGENT_CHECKS: dict[str, Callable[[Any], bool]] = {
    "chat": lambda gave: bool(gave.strip()),
    "stream": lambda gave: len(gave) > 1 and bool("".join(gave).strip()),
    # Some say it in words of their own.
    "error": lambda gave: gave["status"] in (404, None) and bool(gave["message"]),
}

MEANINGS = {
    "models": "lists the models that there are",
    "chat": "has a whole answer",
    "stream": "has the same answer in pieces",
    "usage": "tells the tokens of a prompt and its answer, 37 and 7",
    "tools": "has a tool called with the arguments that it takes",
    "results": "gives the tool's result back, and has an answer",
    "schema": "has an answer of a JSON schema",
    "embed": "has vectors, as near to each other as published",
    "error": "sees that a model does not exist as its own error",
}
