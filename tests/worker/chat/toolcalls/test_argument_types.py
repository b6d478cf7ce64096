"""Text becomes what the schema of its argument says."""

from typing import Any

import pytest

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.argument_types import argument_types, converted, types_of


@pytest.mark.parametrize(
    ("schema", "text", "written"),
    [
        ({"type": "string"}, "12", '"12"'),
        ({"type": "string"}, '"a"', '"\\"a\\""'),
        ({"type": "integer"}, "12", "12"),
        ({"type": "number"}, "1.50", "1.50"),
        ({"type": "integer"}, "many", '"many"'),
        ({"type": "boolean"}, "True", "true"),
        ({"type": ["string", "null"]}, "null", "null"),
        ({"type": ["string", "integer"]}, "12", "12"),
        ({"type": ["string", "integer"]}, "12 kg", '"12 kg"'),
        ({"type": ["string", "null"]}, "12", '"12"'),
        ({"type": ["string", "null"]}, '"a"', '"\\"a\\""'),
        ({"anyOf": [{"type": "string"}, {"type": "object"}]}, '{"a": 1}', '{"a": 1}'),
        ({"enum": ["1", "2"]}, "1", '"1"'),
        ({"enum": ["a", 1]}, "1", "1"),
        ({"const": 3}, "3", "3"),
        ({}, "12", "12"),
        ({}, "twelve", '"twelve"'),
        ({"type": 7}, "12", "12"),
        (True, '"a"', '"a"'),
        ({"type": "array"}, '["a"]', '["a"]'),
    ],
)
def test_text_becomes_json(schema: Any, text: str, written: str) -> None:
    assert converted(text, types_of(schema)) == written


@pytest.mark.parametrize("parameters", ["", "[]", "null", '{"properties": 1}', "[" * 100_000])
def test_a_schema_that_cannot_be_read_says_nothing(parameters: str) -> None:
    assert argument_types(Tool("f", parameters=parameters), "a") == types_of({})
    assert argument_types(None, "a") == types_of({})
