"""`python -m bench.schemas [llama_grammar.py]`: what of JSON Schema is enforced, by keyword; with the path of
llama-cpp-python's llama_grammar.py also what llama.cpp's own converter makes of the same schemas.

The sample is of the JSON-Schema-Test-Suite (draft 2020-12 at commit 44401e0c, MIT licence, Copyright (c) 2012 Julian
Berman). With `--maskbench FOLDER` it is every 24th of the real schemas in JSONSchemaBench, by where they come from:
`maskbench/data` in a copy of github.com/guidance-ai/jsonschemabench.

A schema is enforced or refused. What is invalid and could be written under one that is enforced is wrong; of what is
valid something may be out of reach, such as properties in another order than the schema has them in. A schema is right
when it is enforced, no value is wrong and none out of reach.
"""

import argparse
import importlib.util
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shimmy.core.errors import RequestError, Unavailable
from shimmy.core.request import Constraint
from shimmy.worker.constraints import compile
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.matcher import Compiled

# Of llama.cpp's converter, whose grammars are longer than what we take from clients.
_MAX_CONVERTED_BYTES = 1 << 20
_STRIDE = 24
_DISABLED = {"_format", "_uniqueItems", "_id"}
# A keyword, a schema, and values with whether they are valid.
Sample = tuple[str, Any, Iterable[tuple[Any, bool]]]

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
    num_right: int = 0
    num_reached: int = 0
    num_unreached: int = 0
    wrong: list[tuple[Any, str]] = []


def suite() -> Iterator[Sample]:
    for line in SUITE.read_text().splitlines():
        keyword, schema, cases = json.loads(line)
        yield keyword, schema, cases


def maskbench(folder: Path) -> Iterator[Sample]:
    """The names are those of the collections. A keyword that begins with "_" was switched off in the benchmark."""
    for path in sorted(folder.glob("*.json"))[::_STRIDE]:
        found = json.loads(path.read_text())
        collection, separator, _ = path.name.partition("---")
        cases = [(each["data"], each["valid"]) for each in found["tests"]]
        yield collection if separator else path.name.partition("_")[0], _without_disabled(found["schema"]), cases


def _without_disabled(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_disabled(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {name: _without_disabled(value) for name, value in schema.items() if name not in _DISABLED}


def coverage(compiled: Callable[[str], Compiled], samples: Iterable[Sample] | None = None) -> dict[str, Coverage]:
    """By keyword, of our suite unless other samples are given. `compiled` raises `RequestError` for a schema that it
    refuses."""
    found: defaultdict[str, Coverage] = defaultdict(Coverage)
    for keyword, schema, cases in suite() if samples is None else samples:
        of_keyword = found[keyword]
        try:
            constraint = compiled(json.dumps(schema))
        except RequestError:
            of_keyword.num_refused += 1
            continue
        of_keyword.num_enforced += 1
        of_keyword.num_right += all([_count(of_keyword, constraint, schema, *case) for case in cases])
    return found


def _count(found: Coverage, constraint: Compiled, schema: Any, value: Any, is_valid: bool) -> bool:
    """Whether it is as it should be."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if any("\ud800" <= char < "\ue000" for char in text):
        # No model can write it.
        return True
    is_reached = constraint.accepts(text)
    if is_valid:
        found.num_reached += is_reached
        found.num_unreached += not is_reached
    elif is_reached:
        found.wrong.append((schema, text))
    return is_reached == is_valid


def enforced(compiler: Compiler) -> Callable[[str], Compiled]:
    return lambda schema: _patiently(compiler, Constraint("json_schema", schema, "schema"))


def _patiently(compiler: Compiler, constraint: Constraint) -> Compiled:
    """One that is refused for its time goes on for a while, and others have to wait for it."""
    while True:
        try:
            return compiler.compile(constraint)
        except Unavailable:
            time.sleep(0.5)


def converted(compiler: Compiler, converter: Path) -> Callable[[str], Compiled]:
    """Through llama.cpp's converter, and then like any grammar in GBNF."""
    compile.MAX_GRAMMAR_BYTES = _MAX_CONVERTED_BYTES
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
        return _patiently(compiler, Constraint("grammar", grammar, "schema"))

    return compiled


def table(found: dict[str, Coverage]) -> str:
    lines = [f"{'keyword':24} enforced refused   right  valid: reached, out of reach   wrong"]
    total = Coverage(wrong=[])
    for keyword, each in found.items():
        lines.append(_line(keyword, each))
        for field in ("num_enforced", "num_refused", "num_right", "num_reached", "num_unreached"):
            setattr(total, field, getattr(total, field) + getattr(each, field))
        total.wrong += each.wrong
    return "\n".join([*lines, _line("all", total)])


def _line(name: str, each: Coverage) -> str:
    num_wrong = len({json.dumps(schema) for schema, _ in each.wrong})
    return (
        f"{name:24} {each.num_enforced:8} {each.num_refused:7} {each.num_right:7} {each.num_reached:15}"
        f" {each.num_unreached:13} {num_wrong:7}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.schemas")
    parser.add_argument("converters", nargs="*", type=Path, metavar="llama_grammar.py")
    parser.add_argument("--maskbench", type=Path, metavar="FOLDER", help="real schemas instead of the test suite's")
    options = parser.parse_args()
    samples = None if options.maskbench is None else list(maskbench(options.maskbench))
    compiler = Compiler(ByteVocabulary())
    print(table(coverage(enforced(compiler), samples)))
    for converter in options.converters:
        print(f"\nllama.cpp's converter\n{table(coverage(converted(compiler, converter), samples))}")


if __name__ == "__main__":
    main()
