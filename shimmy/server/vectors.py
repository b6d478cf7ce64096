"""Vectors as JSON, and the results of a request in order; each is encoded as it comes: all at once would take long."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec

from shimmy.core.events import Embedded

_RESULTS_IN_A_ROW = 16

Encode = Callable[[Embedded], bytes]

_encode = msgspec.json.encode


def as_floats(result: Embedded) -> bytes:
    return _encode(memoryview(result.vectors).cast("f").tolist())


def as_base64(result: Embedded) -> bytes:
    """msgspec writes bytes so."""
    return _encode(result.vectors)


def as_row(result: Embedded) -> bytes:
    """A list of vectors with one in it."""
    return b"[" + as_floats(result) + b"]"


def as_rows(result: Embedded) -> bytes:
    """A list of vectors, one of each token."""
    shape = (result.num_tokens, len(result.vectors) // 4 // result.num_tokens)
    return _encode(memoryview(result.vectors).cast("f", shape).tolist())


async def collect(batches: AsyncGenerator[list[Embedded], None], count: int, encode: Encode) -> tuple[list[bytes], int]:
    """What `encode` makes of each result, in the order of the inputs, and how many tokens they had."""
    encoded, num_tokens = [b""] * count, [0] * count
    async with aclosing(batches):
        async for batch in batches:
            for at, result in enumerate(batch):
                if at % _RESULTS_IN_A_ROW == _RESULTS_IN_A_ROW - 1:
                    # Others have a turn: a batch is many results, and each takes 20 us and more.
                    await asyncio.sleep(0)
                encoded[result.index] = encode(result)
                num_tokens[result.index] = result.num_tokens
    return encoded, sum(num_tokens)
