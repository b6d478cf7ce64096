"""What there is to say of a route, beside where it is: for the OpenAPI document."""

from typing import Any

import msgspec


class Operation(msgspec.Struct, frozen=True):
    """`body` is a Struct, `answer` one or a JSON schema; a route that `streams` does so with `"stream": true`, as
    server-sent events."""

    summary: str
    body: Any = None
    answer: Any = None
    streams: bool = False
