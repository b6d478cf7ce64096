import asyncio
from typing import Any

import pytest

from shimmy.core.errors import DeadlineExceeded, QueueTimeout, ShimmyError
from shimmy.core.request import Generation, Text
from shimmy.pool.deadline import Deadline
from tests.fakes.pool import run


def request(**fields: Any) -> Generation:
    return Generation(id="r", model="m", prompt=Text("hi"), **fields)


@pytest.mark.parametrize(
    ("fields", "queue_seconds", "error"),
    [
        ({"queue_seconds": 0.01}, None, QueueTimeout),
        ({"timeout_seconds": 0.01}, None, DeadlineExceeded),
        ({"queue_seconds": 0.01, "timeout_seconds": 9.0}, 9.0, QueueTimeout),
        ({"queue_seconds": 9.0, "timeout_seconds": 0.01}, 9.0, DeadlineExceeded),
        ({}, 0.01, QueueTimeout),
        ({"queue_seconds": 9.0}, 0.01, QueueTimeout),
        ({}, 0.0, QueueTimeout),
    ],
)
def test_a_wait_ends_with_what_is_due_first(
    fields: dict[str, Any], queue_seconds: float | None, error: type[ShimmyError]
) -> None:
    async def test() -> None:
        deadline = Deadline(request(**fields), queue_seconds)
        with pytest.raises(error):
            async with deadline.waiting():
                await asyncio.sleep(60)

    run(test())


def test_what_comes_in_time_is_not_disturbed() -> None:
    async def test() -> None:
        for fields in ({}, {"queue_seconds": 60.0, "timeout_seconds": 60.0}):
            async with Deadline(request(**fields), None).waiting():
                await asyncio.sleep(0)
        # Without suspending there is no wait, even if there is no time for one.
        async with Deadline(request(), 0.0).waiting():
            pass

    run(test())


def test_a_timeout_of_somebody_else_stays_one() -> None:
    async def test() -> None:
        with pytest.raises(TimeoutError, match="theirs"):
            async with Deadline(request(timeout_seconds=60.0), None).waiting():
                raise TimeoutError("theirs")

    run(test())


def test_the_worker_gets_what_is_left_of_the_time_in_queues() -> None:
    async def test() -> None:
        plain = request(timeout_seconds=500.0)
        assert Deadline(plain, None).request() is plain
        deadline = Deadline(request(queue_seconds=500.0, priority=3), 900.0)
        await asyncio.sleep(0.01)
        passed_on = deadline.request()
        assert passed_on.queue_seconds is not None and 400.0 < passed_on.queue_seconds < 499.995
        assert (passed_on.id, passed_on.priority) == ("r", 3)
        assert Deadline(request(), 0.0).request().queue_seconds == 0.001, "it is measured in the worker, from now on"

    run(test())


def test_the_end_of_a_running_request() -> None:
    async def test() -> None:
        errors: list[ShimmyError] = []
        with Deadline(request(timeout_seconds=0.01), None).running(errors.append):
            await asyncio.sleep(0.1)
        assert [type(error) for error in errors] == [DeadlineExceeded]
        with Deadline(request(timeout_seconds=0.01), None).running(errors.append):
            pass
        with Deadline(request(queue_seconds=0.01), 0.01).running(errors.append):
            await asyncio.sleep(0.05)
        assert len(errors) == 1, "one that has ended, or has begun to run, is left alone"

    run(test())
