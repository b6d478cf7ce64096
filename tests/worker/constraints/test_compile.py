"""What constraints become, the limits they have, and how long hostile ones may take."""

import json
import threading
import time
from typing import Any

import pytest

from shimmy.core.errors import RequestError, Unavailable
from shimmy.core.request import Constraint, ConstraintKind
from shimmy.worker.constraints import compile
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.matcher import Compiled
from tests.worker.constraints.byte_model import ByteModel

COMPILER = Compiler(ByteModel())
# Many times what they take, for a machine that does something else meanwhile; without limits they take minutes.
HOSTILE_SECONDS = 90


def compiled(kind: ConstraintKind, text: str, compiler: Compiler = COMPILER) -> Compiled:
    return compiler.compile(Constraint(kind, text, "field"))


@pytest.mark.parametrize(
    ("kind", "text", "accepted", "refused"),
    [
        ("json_object", "", ["{}", '{"a": [1, {"b": null}]}'], ["[]", "1", '{"a"}', "{} ", "{}{}"]),
        ("json_schema", '{"type": "integer"}', ["7", "-1"], ["7.5", '"7"', "07"]),
        ("json_schema", "true", ["7", "null"], ["nul"]),
        ("json_schema", '{"type": "string"}', ['"a\\n"', '"😀"'], ['"\n"', "a"]),
        ("regex", "^[a-c]+$", ["abc"], ["", "d"]),
        ("regex", "a/b\\d", ["a/b7"], ["a/b", "a/b٣"]),
        ("regex", "a|b\n", ["a", "b\n"], ["b"]),
        ("choice", '["yes", "no", "ye\\"s/\\n", "ü😀"]', ["yes", "no", 'ye"s/\n', "ü😀"], ["", "ye", "yesno"]),
        ("grammar", "start: A (B | /c+/)\nA: \"a\"\nB: \"b\" ~2", ["abb", "acc"], ["ab", "a"]),
        ("grammar", "%llguidance {}\nstart: \"a\" start?", ["a", "aaa"], [""]),
        ("grammar", 'root ::= "a" root | "b"', ["aab"], ["a"]),
    ],
)  # fmt: skip
def test_each_kind(kind: ConstraintKind, text: str, accepted: list[str], refused: list[str]) -> None:
    constraint = compiled(kind, text)
    assert [each for each in accepted if not constraint.accepts(each)] == []
    assert [each for each in refused if constraint.accepts(each)] == []


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("json_schema", "false", "nothing can meet"),
        ("json_schema", '{"type": "integer", "minimum": 3, "maximum": 2}', "minimum"),
        ("json_schema", '{"$ref": "#"}', "refers to itself without an end"),
        ("json_schema", '{"type": "string", "pattern": "(?=a)b"}', "look-around"),
        ("json_schema", '{"oneOf": [{"type": "integer"}, {"type": "number"}]}', "oneOf: a value may meet two"),
        ("json_schema", '{"type": "text"}', "text"),
        ("grammar", 'root ::= root "a"', "refers to itself without an end"),
        ("regex", "(", "regex"),
        ("regex", "a" * 2000, "characters"),
        ("grammar", "start: x", "x"),
        ("grammar", "nothing", ""),
        ("grammar", 'start: %json {"type": "string", "unknown": 1}', "%json"),
        ("grammar", '%llguidance {"no_forcing": false}\nstart: "a"', "%llguidance"),
        ("grammar", "start: a\na: " + '"a" ' * 5000, "bytes"),
    ],
)
def test_what_is_wrong_is_said_and_its_field_named(kind: ConstraintKind, text: str, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        compiled(kind, text)
    assert raised.value.param == "field" and raised.value.status == 400
    assert raised.value.message.startswith("field: ") and message in raised.value.message
    # Nothing of what was made of it.
    assert 'no_forcing": true' not in raised.value.message and "x-guidance" not in raised.value.message


LETTERS = "abcdefghijklmnopqrstuvwxyz"
PRODUCT = {"allOf": [{"anyOf": [{"required": [f"{a}{b}"]} for b in "abcd"]} for a in LETTERS]}
REFERENCES: dict[str, Any] = {
    f"d{n}": {"properties": {name: {"$ref": f"#/$defs/d{n - 1}"} for name in "ab"}} for n in range(1, 41)
}
REFERENCES["d0"] = {"type": "string", "pattern": ".*a"}
PATTERN_PROPERTIES: dict[str, Any] = {f"^{letter}(a|b)*a(a|b){{20}}": {} for letter in LETTERS}
RULES = [f'r{n}: "a" r{n * 7 % 500} | "b{n}"' for n in range(500)]
HOSTILE: dict[str, tuple[ConstraintKind, Any]] = {
    "nested": ("json_schema", '{"items":' * 20_000 + "true" + "}" * 20_000),
    "patterns": ("json_schema", {"allOf": [{"type": "string", "pattern": f".*{letter}.*"} for letter in LETTERS]}),
    "product": ("json_schema", PRODUCT),
    "references": ("json_schema", {"$ref": "#/$defs/d40", "$defs": REFERENCES}),
    "pattern": ("json_schema", {"type": "string", "pattern": "^(.{1,2000}){1,2000}$"}),
    "multiples": ("json_schema", {"type": "integer", "multipleOf": 1_000_000_007}),
    "pattern properties": ("json_schema", {"type": "object", "patternProperties": PATTERN_PROPERTIES}),
    "regex": ("regex", "(x+x+)+y" * 100),
    "repeated": ("regex", "(" * 8 + "a" + "){1,50}" * 8),
    "open groups": ("regex", "(" * 1000),
    "intersection": ("grammar", "start: X\nX: " + " & ".join(f"/.*{letter}.*/" for letter in LETTERS)),
    "groups": ("grammar", "root ::= " + "(" * 5000 + '"a"' + ")" * 5000),
    "repetitions": ("grammar", 'root ::= (("a"{1,2000}){1,2000}){1,2000}'),
    "ambiguous": ("grammar", 'start: a\na: a a a a | "x" | ""'),
    "lines": ("grammar", "\n" * 16_000 + 'start: "a"'),
    "names": ("grammar", "start[" * 2700),
    "rules": ("grammar", "\n".join([*RULES, "start: r0"])),
    "choices": ("choice", [f"choice number {number}" for number in range(1024)]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_takes_no_longer(name: str) -> None:
    """It may be refused at once, or on the way; the next one works."""
    kind, text = HOSTILE[name]
    began_at = time.monotonic()
    try:
        guide = compiled(kind, text if isinstance(text, str) else json.dumps(text)).guide()
        for _ in range(40):
            mask = guide.mask()
            # The last that may come: deep in every repetition.
            if not guide.take(mask.rindex(b"\xc8")):
                raise guide.failure()
            if guide.is_complete:
                break
    except RequestError as error:
        assert error.param == "field"
    assert time.monotonic() - began_at < HOSTILE_SECONDS
    assert compiled("regex", "a+").accepts("aa")


def test_other_threads_go_on_while_a_constraint_is_compiled() -> None:
    """llguidance gives the interpreter lock away. The tokenizer, which does not, is there already."""
    compiled("regex", "a")
    gaps = []
    done = threading.Event()

    def step() -> None:
        last = time.monotonic()
        while not done.is_set():
            time.sleep(0.001)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=step)
    thread.start()
    began_at = time.monotonic()
    for number in range(5):
        with pytest.raises(RequestError):
            compiled("json_schema", f'{{"type": "integer", "multipleOf": {1_000_000_007 + number}}}')
    seconds = time.monotonic() - began_at
    done.set()
    thread.join()
    # Had it kept the lock, there would be one gap for each.
    assert len(gaps) > 10
    assert sorted(gaps)[-6] < seconds / 5


def test_the_same_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(ByteModel())
    first = compiled("regex", "ab+", compiler)
    assert compiled("regex", "ab+", compiler) is first
    # What was at a limit has it for ever, and is made anew.
    first.is_spent = True
    second = compiled("regex", "ab+", compiler)
    assert second is not first and compiled("regex", "ab+", compiler) is second


def test_an_error_is_kept_and_names_the_field_of_each_request() -> None:
    compiler = Compiler(ByteModel())
    for field in ("regex", "guided_regex"):
        with pytest.raises(RequestError, match=f"^{field}: ") as raised:
            compiler.compile(Constraint("regex", "(", field))
        assert raised.value.param == field
    assert compiler._cache.num_bytes < 1 << 20


def test_what_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = Compiler(ByteModel())
    known = compiled("regex", "known", compiler)
    release = threading.Event()
    original = Compiler._matcher

    def slow(self: Compiler, lark: str, job: Any) -> Compiled:
        release.wait()
        return original(self, lark, job)

    monkeypatch.setattr(Compiler, "_matcher", slow)
    monkeypatch.setattr(compile, "COMPILE_SECONDS", 0.05)
    with pytest.raises(RequestError, match=r"^field: it takes more than 0\.05 s"):
        compiled("regex", "slow", compiler)
    # Not a second one beside it; what is known goes on.
    with pytest.raises(Unavailable):
        compiled("regex", "other", compiler)
    assert compiled("regex", "known", compiler) is known
    release.set()
    assert compiler._stuck is not None
    compiler._stuck.join()
    monkeypatch.undo()
    assert compiled("regex", "slow", compiler).accepts("slow")


CALLS = 'start: r_0\nr_0: "<call>" r_1\nr_1: %json {"type": "object", "additionalProperties": false}'


def meets(guide: Any, text: str) -> bool:
    return all(guide.take(token) for token in text.encode()) and guide.is_complete


@pytest.mark.parametrize(
    ("kind", "text", "answer"),
    [
        ("json_schema", '{"type": "integer", "minimum": 7, "maximum": 7}', "7"),
        ("json_schema", "true", "null"),
        ("regex", "ab|cd", "cd"),
        ("choice", '["red", "green"]', "green"),
    ],
)
def test_calls_or_an_answer(kind: ConstraintKind, text: str, answer: str) -> None:
    compiler = Compiler(ByteModel())
    both = compiler.compile_calls(CALLS, "tools", Constraint(kind, text, "field"))
    assert meets(both.guide(), "<call>{}") and meets(both.guide(), answer)
    assert not meets(both.guide(), "x") and not meets(both.guide(), answer + "<call>{}")
    alone = compiler.compile_calls(CALLS, "tools", None)
    assert meets(alone.guide(), "<call>{}") and not meets(alone.guide(), answer)
    assert compiler.compile_calls(CALLS, "tools", None) is alone


def test_calls_that_cannot_be_compiled_name_their_field() -> None:
    with pytest.raises(RequestError, match="^tools: ") as raised:
        Compiler(ByteModel()).compile_calls("start: missing", "tools", None)
    assert raised.value.param == "tools"
