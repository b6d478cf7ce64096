"""Grammars of llama.cpp, followed through llguidance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RequestError
from shimmy.core.request import Constraint
from shimmy.worker.constraints.compile import Compiler
from shimmy.worker.constraints.gbnf import to_lark
from shimmy.worker.constraints.matcher import Compiled
from tests.worker.constraints.byte_model import ByteModel

COMPILER = Compiler(ByteModel())
# grammars/json.gbnf of llama.cpp, shortened
JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws  # any value

object ::=
  "{" ws (
            string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws

array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


def compiled(grammar: str) -> Compiled:
    return COMPILER.compile(Constraint("grammar", grammar, "grammar"))


@pytest.mark.parametrize(
    ("grammar", "accepted", "refused"),
    [
        ('root ::= "a" | "bc"', ["a", "bc"], ["", "b", "ab", "bcbc"]),
        ('root ::= ("a" | "ab") "c"', ["ac", "abc"], ["ab", "abbc"]),
        ('root ::= x* y+\nx ::= "x" | "xy"\ny ::= "y" "z"?', ["y", "xyz", "xyyz", "xxyy"], ["x", "xz"]),
        ("root ::= [a-c0-9_-]{2,3}", ["a-", "_9", "bcb"], ["a", "abcd", "dd"]),
        ("root ::= [^a-z] .", ["Az", "1\n", "ää"], ["ab", "A"]),
        (r'root ::= "\x41\u00e9\U0001F600\n\t\"\\"', ['Aé😀\n\t"\\'], ["A"]),
        (r"root ::= [\]\[\\^-]+", ["]", "[", "\\", "^-"], ["a"]),
        ('root ::= "a"{3}', ["aaa"], ["aa", "aaaa"]),
        ('root ::= "a"{2,}', ["aa", "aaaaa"], ["a"]),
        ('root ::= "(" root ")" | "x"', ["x", "((x))"], ["(x", "()"]),
        ('root ::= root "," item | item\nitem ::= "i"', ["i", "i,i,i"], [",i", "i,"]),
        ('root ::= ("a" |) "b"', ["b", "ab"], ["a"]),
        ('root::="a"#x\n#y\n\nRoot-2 ::= "b"', ["a"], ["b"]),
        (JSON, ['{"a": [1, -2.5, "x\\n", {"b": null}], "c": true}', "{}"], ["[]", '{"a"}', '{"a": 01}']),
    ],
)
def test_a_grammar_means_what_it_means_to_llama_cpp(grammar: str, accepted: list[str], refused: list[str]) -> None:
    constraint = compiled(grammar)
    assert [text for text in accepted if not constraint.accepts(text)] == []
    assert [text for text in refused if constraint.accepts(text)] == []


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('start ::= "a"', "no rule named root"),
        ("root ::= x", "no rule named 'x'"),
        ('root ::= "a', "is not GBNF"),
        ("root ::= [a", "is not GBNF"),
        ("root ::= <[7]>", "is not GBNF"),
        (r'root ::= "\q"', "not an escape sequence"),
        (r'root ::= "\ud800"', "not a character"),
        ("root ::= [z-a]", "ends before it begins"),
        ('root ::= "a"{3,2}', "number of repetitions"),
        ('root ::= "a"{1,99999}', "number of repetitions"),
        ('"a" ::= root', "must begin with its name"),
        ("::=", "must begin with its name"),
    ],
)
def test_what_is_wrong_is_said(grammar: str, message: str) -> None:
    with pytest.raises(RequestError, match="^grammar: ") as raised:
        compiled(grammar)
    assert message in raised.value.message and raised.value.param == "grammar"


@given(st.text(alphabet='root ::= ab"[]()|*+?{1,}\\x\n^-.#', max_size=60))
def test_any_text_is_a_grammar_or_refused(text: str) -> None:
    try:
        to_lark("root ::= " + text)
    except ValueError:
        pass
