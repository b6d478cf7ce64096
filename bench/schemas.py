"""`python -m bench.schemas [llama_grammar.py]`: what of JSON Schema is enforced, by keyword; with the path of
llama-cpp-python's llama_grammar.py also what llama.cpp's own converter makes of the same schemas.

The sample is of the JSON-Schema-Test-Suite (draft 2020-12 at commit 44401e0c, MIT licence, Copyright (c) 2012 Julian
Berman). A schema is enforced or refused. What is invalid and could be written under one that is enforced is wrong; of
what is valid something may be out of reach, such as properties in another order than the schema has them in.
"""

import importlib.util
import json
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from shimmy.core.errors import RequestError
from shimmy.core.request import Constraint
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.matcher import Compiled

SUITE = Path(__file__).parents[1] / "tests" / "worker" / "constraints" / "json_schema_suite.jsonl"


class ByteVocabulary:
    """A token for each byte, and one for the end."""

    end_tokens = frozenset([256])

    def pieces(self) -> list[bytes]:
        return [*(bytes([byte]) for byte in range(256)), b""]


class Coverage(msgspec.Struct):
    """Of one keyword: schemas, values that are valid, and schemas with values that are not."""

    num_enforced: int = 0
    num_refused: int = 0
    num_reached: int = 0
    num_unreached: int = 0
    wrong: list[tuple[Any, str]] = []


def coverage(compiled: Callable[[str], Compiled]) -> dict[str, Coverage]:
    """By keyword. `compiled` raises `RequestError` for a schema that it refuses."""
    found: defaultdict[str, Coverage] = defaultdict(Coverage)
    for line in SUITE.read_text().splitlines():
        keyword, schema, cases = json.loads(line)
        of_keyword = found[keyword]
        try:
            constraint = compiled(json.dumps(schema))
        except RequestError:
            of_keyword.num_refused += 1
            continue
        of_keyword.num_enforced += 1
        for value, is_valid in cases:
            _count(of_keyword, constraint, schema, value, is_valid)
    return found


def _count(found: Coverage, constraint: Compiled, schema: Any, value: Any, is_valid: bool) -> None:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if any("\ud800" <= char < "\ue000" for char in text):
        # No model can write it.
        return
    is_reached = constraint.accepts(text)
    if is_valid:
        found.num_reached += is_reached
        found.num_unreached += not is_reached
    elif is_reached:
        found.wrong.append((schema, text))


def enforced(compiler: Compiler) -> Callable[[str], Compiled]:
    return lambda schema: compiler.compile(Constraint("json_schema", schema, "schema"))


def converted(compiler: Compiler, converter: Path) -> Callable[[str], Compiled]:
    """Through llama.cpp's converter, and then like any grammar in GBNF."""
    spec = importlib.util.spec_from_file_location("llama_grammar", converter)
    if spec is None or spec.loader is None:
        sys.exit(f"{converter} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def compiled(schema: str) -> Compiled:
        try:
            grammar = module.json_schema_to_gbnf(schema)
        except Exception as error:
            # It has no errors of its own: assertions, and whatever a schema that it does not know leads to.
            raise RequestError(str(error)) from error
        return compiler.compile(Constraint("grammar", grammar, "schema"))

    return compiled


def table(found: dict[str, Coverage]) -> str:
    lines = [f"{'keyword':24} enforced refused  valid: reached, out of reach   wrong"]
    total = Coverage(wrong=[])
    for keyword, each in found.items():
        lines.append(_line(keyword, each))
        for field in ("num_enforced", "num_refused", "num_reached", "num_unreached"):
            setattr(total, field, getattr(total, field) + getattr(each, field))
        total.wrong += each.wrong
    return "\n".join([*lines, _line("all", total)])


def _line(name: str, each: Coverage) -> str:
    return (
        f"{name:24} {each.num_enforced:8} {each.num_refused:7} {each.num_reached:15} {each.num_unreached:13}"
        f" {len({json.dumps(schema) for schema, _ in each.wrong}):7}"
    )


def main(*converters: str) -> None:
    compiler = Compiler(ByteVocabulary())
    print(table(coverage(enforced(compiler))))
    for converter in converters:
        print(f"\nllama.cpp's converter\n{table(coverage(converted(compiler, Path(converter))))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
