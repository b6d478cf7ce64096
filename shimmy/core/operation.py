"""What there is to say of a route, beside where it is: for the OpenAPI document."""

from typing import Any

import msgspec

JSON = "application/json"
EVENTS = "text/event-stream"
LINES = "application/x-ndjson"
TEXT = "text/plain"


class Operation(msgspec.Struct, frozen=True):
    """`body` is a Struct, `answer` one or a JSON schema, of answers in JSON; `media` are the types of answers."""

    summary: str
    body: Any = None
    answer: Any = None
    media: tuple[str, ...] = (JSON,)
