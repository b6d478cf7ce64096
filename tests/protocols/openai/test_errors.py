import json

import pytest

from shimmy.core import errors
from shimmy.core.errors import ShimmyError
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
