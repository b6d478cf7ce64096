"""Calls that are JSON objects with a name and arguments, alone or in a list, between marks."""

from collections.abc import Callable

from shimmy.core.request import Tool
from shimmy.worker.chat.toolcalls.dialect import Dialect
from shimmy.worker.chat.toolcalls.json_scanner import as_json, quoted, unquoted
from shimmy.worker.chat.toolcalls.lark import Lark
from shimmy.worker.chat.toolcalls.reading import Malformed, NotACall, Reading, Steps

_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_IDS = ("id", "tool_call_id")


class CallObjects(Dialect, frozen=True, kw_only=True):
    """`begins[0]` and `close` are around a call, or around a list of them if `in_list`. What is read is wider: one or
    several objects or lists of them, the mark at the end missing."""

    close: str
    # What the grammar writes instead of `begins[0]`.
    opening: str = ""
    in_list: bool = False
    # The marks are around all calls, which are not in a list.
    one_section: bool = False
    # How the model's template writes it, from the mark to the object and from the object to the mark.
    padding: str = ""
    separator: str = "\n"
    name_key: str = "name"
    arguments_key: str = "arguments"
    # Each object has a number before the name.
    number_key: str = ""

    def read_call(self, reading: Reading, mark: str) -> Steps[None]:
        yield from read_objects(reading, in_list=mark.endswith("["))
        if self.close:
            yield from reading.close(self.close)

    def answer(self, lark: Lark, tools: list[Tool], most: int) -> str:
        call = lark.either(self._object(lark, tool) for tool in tools)
        opening, closing = (self.opening or self.begins[0]) + self.padding, self.padding + self.close
        if self.in_list:
            opening = opening if opening.endswith("[") else opening + "["
            return f"{lark.literal(opening)} {lark.several(call, ', ', most)} {lark.literal(']' + closing)}"
        if self.one_section:
            return f"{lark.literal(opening)} {lark.several(call, self.separator, most)} {lark.literal(closing)}"
        one = lark.rule(f"{lark.literal(opening)} {call} {lark.literal(closing)}")
        return lark.several(one, self.separator, most)

    def _object(self, lark: Lark, tool: Tool) -> str:
        named = f'"{self.name_key}": {quoted(tool.name)}, "{self.arguments_key}": '
        before = lark.literal("{" + named)
        if self.number_key:
            before = f"""{lark.literal('{"' + self.number_key + '": "')} /[0-9]{{1,3}}/ {lark.literal('", ' + named)}"""
        return f"{before} {lark.arguments(tool)} {lark.literal('}')}"


def read_objects(reading: Reading, *, in_list: bool = False) -> Steps[None]:
    """One object, or several with or without commas or semicolons between, or a list of them; the list has begun if
    `in_list`."""
    yield from reading.space()
    is_list = in_list or (yield from reading.next_is("[")) is not None
    yield from reading.space()
    while True:
        yield from reading.require("{")
        yield from read_object(reading)
        if is_list:
            if (yield from reading.item_end("]")):
                return
            continue
        yield from reading.space()
        if (yield from reading.next_is(",", ";")):
            yield from reading.space()
        elif (yield from reading.peek()) != "{":
            return


class _Call:
    """What is known of one object so far."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._name: str | None = None
        self._id: str | None = None
        self._waiting: list[str] = []
        self.has_begun = False
        self.has_arguments = False

    @property
    def is_named(self) -> bool:
        return self._name is not None

    def named(self, name: str) -> None:
        self._name = name

    def await_arguments(self) -> None:
        if self._name is not None and not self.has_arguments:
            self._reading.await_arguments(self._name)

    def identified(self, call_id: str) -> None:
        self._id = call_id

    def write(self, text: str) -> None:
        """Some of the arguments, which wait for the name."""
        if self._name is None:
            self._waiting.append(text)
            return
        self.begin()
        self._reading.arguments(text)

    def begin(self) -> None:
        if self.has_begun:
            return
        if self._name is None:
            raise Malformed("a call has no name")
        self._reading.begin(self._name, self._id)
        self.has_begun = True
        self._reading.arguments("".join(self._waiting))

    def end(self) -> None:
        self.begin()
        if not self.has_arguments:
            self._reading.arguments("{}")
        self._reading.end()


def read_object(reading: Reading, *, known: bool = False) -> Steps[None]:
    """What follows the brace of an object that is a call. With `known` it is none unless the first it says is the name
    of a tool."""
    call = _Call(reading)
    yield from reading.space()
    while not (yield from reading.next_is("}")):
        key = yield from read_string(reading)
        yield from reading.space()
        yield from reading.require(":")
        if key in _ARGUMENTS:
            call.await_arguments()
        yield from reading.space()
        yield from _read_entry(reading, call, key, known)
        if (yield from reading.item_end("}")):
            break
    call.end()


def _read_entry(reading: Reading, call: _Call, key: str, known: bool) -> Steps[None]:
    if known and not call.is_named and key not in (*_NAMES, "type", *_IDS):
        raise NotACall
    if key in _NAMES and not call.has_begun:
        name = yield from read_string(reading)
        if known and name not in reading.tools:
            raise NotACall
        call.named(name)
    elif key in _ARGUMENTS and not call.has_arguments:
        call.has_arguments = True
        if call.is_named and (yield from reading.peek()) == "{":
            # Before the arguments come, however many of them come at once.
            call.begin()
        yield from _read_arguments(reading, call.write)
    elif key in _IDS and not call.has_begun and (yield from reading.peek()) == '"':
        call.identified((yield from read_string(reading)))
    else:
        yield from reading.json(lambda text: None)


def _read_arguments(reading: Reading, write: Callable[[str], None]) -> Steps[None]:
    """An object; some models write it as a string, or null for none."""
    first = yield from reading.peek()
    if first == "{":
        yield from reading.json(write)
        return
    whole: list[str] = []
    yield from reading.json(whole.append)
    text = as_json("".join(whole))
    if text == "null" or text == '""':
        write("{}")
        return
    inner = as_json(unquoted(text)) if text is not None and text.startswith('"') else None
    if inner is None or not inner.startswith("{"):
        raise Malformed("the arguments of a call are not an object")
    write(inner)


def read_string(reading: Reading) -> Steps[str]:
    if (yield from reading.peek()) != '"':
        yield from reading.require('"')
    parts: list[str] = []
    yield from reading.json(parts.append)
    return unquoted("".join(parts))
