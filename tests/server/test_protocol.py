"""What protocols share of answering: lists of any length."""

import asyncio
import json
from typing import Any

import pytest

from shimmy.server.protocol import json_list


async def taken(answer: Any) -> bytes:
    """The body of an answer, whose length must be as it is announced."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    await answer({}, None, send)
    body = b"".join(message.get("body", b"") for message in messages)
    assert dict(messages[0]["headers"])[b"content-length"] == str(len(body)).encode()
    return body


@pytest.mark.parametrize("count", [0, 1, 20, 21, 1000])
def test_a_list_of_any_length(count: int) -> None:
    async def body() -> bytes:
        return await taken(await json_list(b'{"all":[', ({"id": each} for each in range(count)), b'],"more":false}'))

    assert json.loads(asyncio.run(body())) == {"all": [{"id": each} for each in range(count)], "more": False}


def test_while_a_long_list_is_made_others_have_their_turn() -> None:
    async def turns() -> int:
        num_turns = 0

        async def take_turns() -> None:
            nonlocal num_turns
            while True:
                num_turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(take_turns())
        await json_list(b"[", range(1000), b"]")
        other.cancel()
        return num_turns

    assert asyncio.run(turns()) >= 50
