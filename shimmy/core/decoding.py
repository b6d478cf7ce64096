"""A request's JSON as a Struct, or an error that names the field. Knows no protocol's fields."""

import re
from typing import Any, Protocol, TypeVar

import msgspec

from shimmy.core.errors import RequestError
from shimmy.core.json_limits import SURE_DEPTH, check_structure

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")

# "Expected `str`, got `int` - at `$.messages[0].role`"; for a dict's key "... - at `key` in `$.logit_bias`". What
# stands before it may repeat a value that was sent, so the last one counts.
_PLACE = re.compile(r"(?:`key` in )?`\$\.?(?P<path>[^`]*)`")
_MAX_CHARS = 500
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]+)`$")
_FLOAT_FOR_INT = re.compile(r"^Expected `(?:[^`]+ \| )?int(?: \| [^`]+)?`, got `float`")
# Beyond it not every whole number has a float of its own.
_MAX_WHOLE = 2**53
# To look at so many numbers takes a twentieth of a second; at long ones it takes the square of their digits.
_MAX_LOOKED_AT = 50_000
_LONG_NUMBER = b"0" * 50
_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789", b"0" * 9)


class Decodes(Protocol[T_co]):
    """msgspec's decoders, and those of unknown_fields.py."""

    def decode(self, content: bytes, /) -> T_co: ...


def decode(decoder: Decodes[T], content: bytes) -> T:
    """Where a whole number is wanted, 1.0 is one, too: not every language writes it as 1. Raises `RequestError` for
    whatever is wrong with the bytes, naming the field if there is one."""
    check_structure(content)
    try:
        return _decode(decoder, content)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not valid UTF-8: {error.reason}") from None
    except RecursionError:
        raise RequestError(f"the body is nested too deeply; {SURE_DEPTH} levels are certain to be read") from None


def _decode(decoder: Decodes[T], content: bytes) -> T:
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        if not _FLOAT_FOR_INT.match(str(error)) or _is_costly(content):
            raise
    return decoder.decode(_with_whole_numbers(content))


def _is_costly(content: bytes) -> bool:
    return content.count(b",") > _MAX_LOOKED_AT or _LONG_NUMBER in content.translate(_DIGITS_AS_ZEROS)


def _with_whole_numbers(content: bytes) -> bytes:
    """The same JSON, in which no whole number is written as a float."""
    return msgspec.json.encode(msgspec.json.Decoder(float_hook=_as_whole).decode(content))


def _as_whole(text: str) -> Any:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= _MAX_WHOLE else msgspec.Raw(text.encode())


def _invalid(text: str) -> RequestError:
    before, _, after = text.rpartition(" - at ")
    place = _PLACE.fullmatch(after)
    what, path = (before[:_MAX_CHARS], place["path"]) if place else (text[:_MAX_CHARS], "")
    if missing := _MISSING.match(what):
        path = f"{path}.{missing['field']}".lstrip(".")
        what = "this field is required"
    return RequestError(f"{path}: {what}" if path else what, param=path or None)
