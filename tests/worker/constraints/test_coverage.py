"""What of JSON Schema is enforced, on a sample of its test suite; `python -m bench.schemas` prints it by keyword."""

from bench.schemas import ByteVocabulary, coverage, enforced, table
from shimmy.worker.constraints.compile import Compiler

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
    "format regex",
    "format json-pointer",
    "format idn-email",
    "format unknown",
}


def test_nothing_passes_that_is_invalid() -> None:
    found = coverage(enforced(Compiler(ByteVocabulary())))
    print(table(found))
    assert [(keyword, wrong) for keyword, each in found.items() for wrong in each.wrong] == []
    assert {keyword for keyword, each in found.items() if not each.num_enforced} == REFUSED
    # More would be better; docs/structured-output.md has these.
    totals = [sum(getattr(each, field) for each in found.values()) for field in ("num_enforced", "num_reached")]
    assert totals == [174, 509]
