import json

import msgspec
import pytest

from shimmy.core import errors
from shimmy.core.decoding import decode
from shimmy.core.errors import RequestError, ShimmyError
from shimmy.protocols.openai.errors import encode_error, encode_error_event

TYPES = {
    errors.RequestError: "invalid_request_error",
    errors.ContextOverflow: "invalid_request_error",
    errors.TooLarge: "invalid_request_error",
    errors.Unauthorized: "authentication_error",
    errors.Forbidden: "permission_error",
    errors.NotFound: "not_found_error",
    errors.ModelNotFound: "not_found_error",
    errors.MethodNotAllowed: "invalid_request_error",
    errors.RequestTimeout: "timeout_error",
    errors.QueueTimeout: "timeout_error",
    errors.DeadlineExceeded: "timeout_error",
    errors.ModelInvalid: "invalid_request_error",
    errors.Busy: "rate_limit_error",
    errors.Draining: "server_error",
    errors.ModelFailed: "server_error",
    errors.WorkerLost: "server_error",
    ShimmyError: "server_error",
}


@pytest.mark.parametrize("cls", TYPES)
def test_every_error_has_openai_s_four_fields(cls: type[ShimmyError]) -> None:
    encoded = json.loads(encode_error(cls("what is wrong", param="field", detail=1)))
    assert encoded == {
        "error": {"message": "what is wrong", "type": TYPES[cls], "param": "field", "code": cls.code},
    }


def test_an_error_event_is_one_event() -> None:
    event = encode_error_event(ShimmyError("two\nlines"))
    assert event.startswith(b'data: {"error":{') and event.endswith(b"}\n\n") and event.count(b"\n") == 2


class Inner(msgspec.Struct):
    number: int


class Outer(msgspec.Struct):
    name: str = ""
    items: list[Inner] = []
    table: dict[int, int] = {}


@pytest.mark.parametrize(
    ("content", "param"),
    [
        (b"[]", None),
        (b'{"items":1}', "items"),
        (b'{"items":[{"number":1},{}]}', "items[1].number"),
        (b'{"items":[{"number":"`$.x`"}]}', "items[0].number"),
        (b'{"table":{"x":1}}', "table"),
        (b'{"table":{"1":"x"}}', "table[...]"),
        (b"{", None),
        (b'{"name":"\xff"}', None),
        (b'{"x":' * 100_000, None),
    ],
)
def test_whatever_is_wrong_with_the_bytes_is_a_request_error(content: bytes, param: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        decode(msgspec.json.Decoder(Outer), content)
    assert caught.value.param == param
