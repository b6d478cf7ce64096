"""Errors as OpenAI's clients expect them, and a request's bytes as a Struct or such an error."""

import re
from typing import TypeVar

import msgspec

from shimmy.core.errors import RequestError, ShimmyError
from shimmy.core.json_limits import SURE_DEPTH, check_structure

T = TypeVar("T")

# type by status, as the SDKs' exception classes are (openai/_exceptions.py), timeouts as Anthropic has them; other 4xx
# are the request's fault
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}

# "Expected `str`, got `int` - at `$.messages[0].role`"; for a dict's key "... - at `key` in `$.logit_bias`"
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]+)`$")


def encode_error(error: ShimmyError) -> bytes:
    """The body of an error answer."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return msgspec.json.encode(
        {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}
    )


def encode_error_event(error: ShimmyError) -> bytes:
    """The same as the last event of a stream; no [DONE] follows it."""
    return b"data: " + encode_error(error) + b"\n\n"


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
