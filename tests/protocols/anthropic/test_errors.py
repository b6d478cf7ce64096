import json

import pytest

from shimmy.core import errors
from shimmy.core.errors import ShimmyError
from shimmy.protocols.anthropic.errors import encode_error, encode_error_event

TYPES = {
    errors.RequestError: "invalid_request_error",
    errors.ContextOverflow: "invalid_request_error",
    errors.TooLarge: "request_too_large",
    errors.Unauthorized: "authentication_error",
    errors.Forbidden: "permission_error",
    errors.ModelNotFound: "not_found_error",
    errors.MethodNotAllowed: "invalid_request_error",
    errors.QueueTimeout: "timeout_error",
    errors.DeadlineExceeded: "timeout_error",
    errors.ModelInvalid: "invalid_request_error",
    errors.Busy: "rate_limit_error",
    errors.Draining: "overloaded_error",
    errors.ModelFailed: "api_error",
    errors.WorkerLost: "api_error",
    ShimmyError: "api_error",
}


@pytest.mark.parametrize("cls", TYPES)
def test_every_error_has_a_type_of_anthropic_s(cls: type[ShimmyError]) -> None:
    assert json.loads(encode_error(cls("what is wrong", param="field", detail=1), "req_1")) == {
        "type": "error",
        "error": {"type": TYPES[cls], "message": "what is wrong"},
        "request_id": "req_1",
    }


def test_an_error_event_is_one_event() -> None:
    event = encode_error_event(ShimmyError("two\nlines"), "req_1")
    assert event.startswith(b'event: error\ndata: {"type":"error"') and event.endswith(b"}\n\n")
    assert event.count(b"\n") == 3


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("tools[0].function.parameters: not", "tools[0].input_schema: not"),
        (
            "continue_final_message: the last message has calls",
            "messages: the answer cannot go on from the last message: the last message has calls",
        ),
    ],
)
def test_fields_are_named_as_this_api_names_them(message: str, shown: str) -> None:
    assert json.loads(encode_error(errors.RequestError(message), "r"))["error"]["message"] == shown


def test_what_is_too_long_is_said_in_the_words_that_claude_code_looks_for() -> None:
    overflow = errors.ContextOverflow("it has 20 of 10", num_prompt_tokens=20, context_length=10)
    message = json.loads(encode_error(overflow, "req_1"))["error"]["message"]
    assert message == "prompt is too long: 20 tokens > 10 maximum; it has 20 of 10"
