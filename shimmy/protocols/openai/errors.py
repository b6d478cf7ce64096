"""Errors as OpenAI's clients expect them, and a request's body as a Struct or such an error."""

import re
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request

from shimmy.core.errors import RequestError, ShimmyError
from shimmy.core.json_limits import SURE_DEPTH, check_structure
from shimmy.core.unknown_fields import Decoder
from shimmy.server.strictness import note

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

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


class Decodes(Protocol[T_co]):
    def decode(self, content: bytes, /) -> T_co: ...


async def read(request: Request, decoder: Decoder[T]) -> T:
    """The request's body; what of it is unknown is noted. Raises `RequestError` like `decode`."""
    body, unknown = decode(decoder, await request.body())
    note(request, unknown)
    return body


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
    match = _AT.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    if missing := _MISSING.match(what):
        path = f"{path}.{missing['field']}".lstrip(".")
        what = "this field is required"
    return RequestError(f"{path}: {what}" if path else what, param=path or None)
