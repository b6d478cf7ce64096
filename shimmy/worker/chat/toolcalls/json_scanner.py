"""Reads one JSON value as its text comes, piece by piece. Knows nothing of calls.

Strict but for what models often get wrong and what has only one meaning: control characters within strings, and
Python's True, False and None. Each character is looked at once; nesting has a limit.
"""

import json
import re

MAX_DEPTH = 64
MAX_SCALAR_CHARS = 4096

_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_SCALAR = re.compile(r"[-+.0-9A-Za-z]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_WORDS = {word: word for word in ("true", "false", "null")} | {"True": "true", "False": "false", "None": "null"}
_CONTROL = {chr(code): f"\\u{code:04x}" for code in range(32)} | {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED = set('"\\/bfnrtu')
_HEX = set("0123456789abcdefABCDEF")


class NotJson(ValueError):
    """The text cannot become a JSON value: why, up to where it was read, and what to write for that."""

    def __init__(self, reason: str, at: int, written: str) -> None:
        super().__init__(reason)
        self.reason, self.at, self.written = reason, at, written


class _Wrong(Exception):
    """At a sign, which is not read then, unless `at` says how far it goes."""

    def __init__(self, reason: str, at: int = 0) -> None:
        super().__init__(reason)
        self.reason, self.at = reason, at


class JsonScanner:
    """One value. `is_done` as soon as it is complete; a number is, when something else follows it."""

    def __init__(self) -> None:
        self.is_done = False
        self._closers: list[str] = []
        # One of: value, item or end, key, key or end, colon, next, string, scalar.
        self._awaits = "value"
        self._is_key = False
        self._scalar: list[str] = []
        self._scalar_chars = 0
        # What of an escape sequence has come.
        self._escape = ""

    def feed(self, text: str, at: int) -> tuple[int, str]:
        """Takes `text` from `at` on, as far as it belongs to the value: where that ends, and what to write for it.
        Raises `NotJson`."""
        written: list[str] = []
        try:
            while at < len(text) and not self.is_done:
                at = self._step(text, at, written)
        except _Wrong as error:
            raise NotJson(error.reason, max(at, error.at), "".join(written)) from None
        return at, "".join(written)

    def _step(self, text: str, at: int, written: list[str]) -> int:
        if self._awaits == "string":
            return self._string(text, at, written)
        if self._awaits == "scalar":
            return self._in_scalar(text, at, written)
        end = _space_end(text, at)
        written.append(text[at:end])
        if end == len(text):
            return end
        return self._sign(text, end, written)

    def _sign(self, text: str, at: int, written: list[str]) -> int:
        char, awaits = text[at], self._awaits
        if awaits == "colon":
            if char != ":":
                raise _Wrong("a colon is missing", at)
            self._awaits = "value"
        elif awaits == "next":
            if char == ",":
                self._awaits = "key" if self._closers[-1] == "}" else "value"
            elif char == self._closers[-1]:
                self._close()
            else:
                raise _Wrong("a comma or the end is missing", at)
        elif awaits.endswith("or end") and char == self._closers[-1]:
            self._close()
        elif char == '"':
            self._is_key = awaits.startswith("key")
            self._awaits = "string"
        elif awaits.startswith("key"):
            raise _Wrong("a name in quotes is missing", at)
        elif char in "{[":
            if len(self._closers) == MAX_DEPTH:
                raise _Wrong(f"nested more than {MAX_DEPTH} deep", at)
            self._closers.append("}" if char == "{" else "]")
            self._awaits = "key or end" if char == "{" else "item or end"
        else:
            self._awaits = "scalar"
            return at
        written.append(char)
        return at + 1

    def _close(self) -> None:
        self._closers.pop()
        self._ended()

    def _ended(self) -> None:
        self._awaits = "next"
        self.is_done = not self._closers

    def _string(self, text: str, at: int, written: list[str]) -> int:
        if self._escape:
            return self._in_escape(text, at, written)
        match = _PLAIN.match(text, at)
        assert match is not None
        end = match.end()
        written.append(text[at:end])
        if end == len(text):
            return end
        char = text[end]
        if char == "\\":
            self._escape = char
        elif char == '"':
            written.append(char)
            if self._is_key:
                self._awaits = "colon"
            else:
                self._ended()
        else:
            written.append(_CONTROL[char])
        return end + 1

    def _in_escape(self, text: str, at: int, written: list[str]) -> int:
        char = text[at]
        if char not in (_ESCAPED if len(self._escape) == 1 else _HEX):
            raise _Wrong("not an escape sequence")
        self._escape += char
        if len(self._escape) == (6 if self._escape[1] == "u" else 2):
            written.append(self._escape)
            self._escape = ""
        return at + 1

    def _in_scalar(self, text: str, at: int, written: list[str]) -> int:
        match = _SCALAR.match(text, at)
        assert match is not None
        end = min(match.end(), at + MAX_SCALAR_CHARS - self._scalar_chars)
        self._scalar.append(text[at:end])
        self._scalar_chars += end - at
        if self._scalar_chars == MAX_SCALAR_CHARS:
            raise _Wrong("too long a number", end)
        if end < len(text):
            written.append(self._whole_scalar(end))
        return end

    def _whole_scalar(self, end: int) -> str:
        word = "".join(self._scalar)
        self._scalar.clear()
        self._scalar_chars = 0
        if word in _WORDS:
            word = _WORDS[word]
        elif not _NUMBER.fullmatch(word):
            raise _Wrong("neither a value in quotes nor a number" if word else "a value is missing", end)
        self._ended()
        return word


def as_json(text: str) -> str | None:
    """`text` as one JSON value without space around it; None if it is none."""
    scanner = JsonScanner()
    try:
        # The line break ends a number.
        at, written = scanner.feed(text + "\n", 0)
    except NotJson:
        return None
    return written.strip() if scanner.is_done and not text[at:].strip() else None


def quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def unquoted(text: str) -> str:
    """The string that valid JSON `text` stands for; halves of characters become a sign for them."""
    string: str = json.loads(text)
    return string.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _space_end(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
