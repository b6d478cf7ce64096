"""A request's JSON as a Struct, or an error that names the field. Knows no protocol's fields."""

import re
from typing import Protocol, TypeVar

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


class Decodes(Protocol[T_co]):
    """msgspec's decoders, and those of unknown_fields.py."""

    def decode(self, content: bytes, /) -> T_co: ...


def decode(decoder: Decodes[T], content: bytes) -> T:
    """Raises `RequestError` for whatever is wrong with the bytes, naming the field if there is one."""
    check_structure(content)
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except msgspec.DecodeError as error:
        raise RequestError(f"the body is not valid JSON: {error}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"the body is not valid UTF-8: {error.reason}") from None
    except RecursionError:
        raise RequestError(f"the body is nested too deeply; {SURE_DEPTH} levels are certain to be read") from None


def _invalid(text: str) -> RequestError:
    before, _, after = text.rpartition(" - at ")
    place = _PLACE.fullmatch(after)
    what, path = (before[:_MAX_CHARS], place["path"]) if place else (text[:_MAX_CHARS], "")
    if missing := _MISSING.match(what):
        path = f"{path}.{missing['field']}".lstrip(".")
        what = "this field is required"
    return RequestError(f"{path}: {what}" if path else what, param=path or None)
