r"""GBNF, the grammars of llama.cpp (grammars/README.md there), as Lark, which llguidance reads.

What is regular must become one terminal each: the lexer takes the longest match of a terminal, so that rules that only
put characters together would lose their way between ("a" | "ab") "c" and "abd".
"""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\r\n]*)|(?P<newline>\r?\n|\r)|(?P<define>::=)|(?P<name>[A-Za-z0-9_-]+)
    |(?P<literal>"(?:[^"\\]|\\.)*")|(?P<class>\[(?:[^\]\\]|\\.)*\])|(?P<count>\{[ ]*\d{0,5}[ ]*,?[ ]*\d{0,5}[ ]*\})
    |(?P<sign>[()|*+?.])""",
    re.VERBOSE | re.DOTALL,
)
_CHAR = re.compile(r"\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\(.)|(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", **{char: char for char in '"\\[]^-'}}
MAX_REPETITIONS = 2000

_Token = tuple[str, str]


def to_lark(text: str) -> str:
    """Raises `ValueError` that says what is wrong where."""
    rules = dict(_rules(list(_tokens(text))))
    if "root" not in rules:
        raise ValueError("there is no rule named root")
    for tokens in rules.values():
        for kind, value in tokens:
            if kind == "name" and value not in rules:
                raise ValueError(f"there is no rule named {value[:40]!r}")
    terminals = _terminals(rules)
    names = {name: ("T" if name in terminals else "r") + f"_{at}" for at, name in enumerate(rules)}
    lines = [f"start: {names['root']}"]
    for name, tokens in rules.items():
        lines.append(f"{names[name]}: " + " ".join(_lark(token, names) for token in tokens))
    return "\n".join(lines)


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            line = text.count("\n", 0, at) + 1
            raise ValueError(f"line {line}: {text[at : at + 20]!r} is not GBNF")
        if match.lastgroup != "space":
            yield match.lastgroup, match[0]
        at = match.end()


def _rules(tokens: list[_Token]) -> Iterator[tuple[str, list[_Token]]]:
    """Each rule's name and what it is defined as. A rule begins with a name and "::=", and a line."""
    significant = [token for token in tokens if token[0] != "newline"]
    starts = [at for at, token in enumerate(significant) if token[0] == "define"]
    if not starts or starts[0] != 1 or any(significant[at - 1][0] != "name" for at in starts):
        raise ValueError('a rule must begin with its name and "::="')
    for start, end in zip(starts, [*starts[1:], len(significant) + 1], strict=True):
        yield significant[start - 1][1], _alternatives_with_empty(significant[start + 1 : end - 1])


def _alternatives_with_empty(tokens: list[_Token]) -> list[_Token]:
    """With "" where an alternative has nothing in it, which Lark wants to be written."""
    filled: list[_Token] = []
    before = "("
    for token in [*tokens, ("sign", ")")]:
        if token[1] in "|)" and token[0] == "sign" and before in ("(", "|"):
            filled.append(("literal", '""'))
        filled.append(token)
        before = token[1] if token[0] == "sign" else ""
    return filled[:-1]


def _terminals(rules: dict[str, list[_Token]]) -> set[str]:
    """The rules that are regular because no way leads from them back to themselves."""
    regular: set[str] = set()
    uses = {name: {value for kind, value in tokens if kind == "name"} for name, tokens in rules.items()}
    while found := {name for name, used in uses.items() if name not in regular and used <= regular}:
        regular |= found
    return regular


def _lark(token: _Token, names: dict[str, str]) -> str:
    kind, text = token
    match kind:
        case "name":
            return names[text]
        case "literal":
            chars = "".join(f"\\x{{{code:x}}}" for code in _codes(text[1:-1]))
            return f"/{chars}/" if chars else '""'
        case "class":
            return f"/{_class(text[1:-1])}/"
        case "count":
            return _count(text)
    return r"/[\s\S]/" if text == "." else text


def _count(text: str) -> str:
    low, comma, high = text[1:-1].replace(" ", "").partition(",")
    if not low or max(int(low), int(high or 0)) > MAX_REPETITIONS or (comma and high and int(low) > int(high)):
        raise ValueError(f"{text}: not a number of repetitions, or more than {MAX_REPETITIONS}")
    return f"{{{low}{comma}{high}}}"


def _class(text: str) -> str:
    negated = text.startswith("^")
    codes: list[int | None] = []
    for match in _CHAR.finditer(text[negated:]):
        # None is the sign of a range.
        codes.append(None if match[0] == "-" else _code(match))
    parts, at = [], 0
    while at < len(codes):
        low = codes[at]
        low = ord("-") if low is None else low
        if at + 2 < len(codes) and codes[at + 1] is None:
            high = codes[at + 2]
            high = ord("-") if high is None else high
            if low > high:
                raise ValueError(f"[{text[:40]}]: a range that ends before it begins")
            parts.append(f"\\x{{{low:x}}}-\\x{{{high:x}}}")
            at += 3
        else:
            parts.append(f"\\x{{{low:x}}}")
            at += 1
    if not parts:
        raise ValueError(f"[{text}]: a class without characters")
    return f"[{'^' if negated else ''}{''.join(parts)}]"


def _codes(text: str) -> Iterator[int]:
    return map(_code, _CHAR.finditer(text))


def _code(match: re.Match[str]) -> int:
    two, four, eight, escaped, plain = match.groups()
    if number := two or four or eight:
        code = int(number, 16)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            raise ValueError(f"{match[0]}: not a character")
        return code
    if escaped is not None:
        if escaped not in _ESCAPES:
            raise ValueError(f"{match[0]}: not an escape sequence")
        return ord(_ESCAPES[escaped])
    return ord(plain)
