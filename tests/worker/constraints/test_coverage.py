"""What of JSON Schema is enforced, on a sample of the JSON-Schema-Test-Suite (draft 2020-12 at commit
44401e0c, MIT licence, Copyright (c) 2012 Julian Berman): pytest -rP prints it by keyword.

A schema is enforced or refused. Under an enforced one, nothing that is invalid may be written: that would be wrong. Of
what is valid something may be out of reach, such as properties in another order than the schema has them in.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from shimmy.core.errors import RequestError
from shimmy.core.request import Constraint
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.matcher import Compiled
from tests.worker.constraints.byte_model import ByteModel

SUITE = Path(__file__).with_name("json_schema_suite.jsonl")
# In these nothing is enforced, and it says so.
REFUSED = {
    "contains",
    "content",
    "defs",
    "dependentRequired",
    "dependentSchemas",
    "if-then-else",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "uniqueItems",
    "format regex",
    "format json-pointer",
    "format idn-email",
    "format unknown",
}


def compiled(compiler: Compiler, schema: Any) -> Compiled | None:
    try:
        return compiler.compile(Constraint("json_schema", json.dumps(schema), "schema"))
    except RequestError as error:
        assert error.param == "schema" and len(error.message) > 20
        return None


def written(value: Any) -> str | None:
    """As a model would; None for what is no Unicode."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return text


def test_nothing_passes_that_is_invalid() -> None:
    compiler = Compiler(ByteModel())
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    wrong = []
    for line in SUITE.read_text().splitlines():
        keyword, schema, cases = json.loads(line)
        constraint = compiled(compiler, schema)
        counts[keyword][constraint is None] += 1
        for value, is_valid in cases if constraint else []:
            if (text := written(value)) is None or constraint is None:
                continue
            is_accepted = constraint.accepts(text)
            if is_valid:
                counts[keyword][2 + (not is_accepted)] += 1
            elif is_accepted:
                wrong.append((keyword, schema, text))
    print(f"{'keyword':24} enforced refused  valid: reached, out of reach")
    for keyword, (enforced, refused, reached, unreached) in counts.items():
        print(f"{keyword:24} {enforced:8} {refused:7} {reached:15} {unreached:13}")
    totals = [sum(column) for column in zip(*counts.values(), strict=True)]
    print(f"{'all':24} {totals[0]:8} {totals[1]:7} {totals[2]:15} {totals[3]:13}  wrong: {len(wrong)}")
    assert wrong == []
    assert {keyword for keyword, (enforced, *_) in counts.items() if not enforced} == REFUSED
