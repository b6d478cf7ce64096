"""A request's bytes as a Struct, or as an error that names the field. Knows JSON, but no protocol's fields."""

import re
from typing import TypeVar

import msgspec

from shimmy.core.errors import RequestError
from shimmy.core.json_limits import SURE_DEPTH, check_structure

T = TypeVar("T")

# "Expected `str`, got `int` - at `$.messages[0].role`"; for a dict's key "... - at `key` in `$.logit_bias`"
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]+)`$")


def decode(decoder: msgspec.json.Decoder[T], content: bytes) -> T:
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
    match = _AT.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    if missing := _MISSING.match(what):
        path = f"{path}.{missing['field']}".lstrip(".")
        what = "this field is required"
    return RequestError(f"{path}: {what}" if path else what, param=path or None)
