"""What one key may use, against a model of it in fractions, and on the wire."""

import asyncio
from collections.abc import Awaitable, Callable
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.errors import RateLimited
from shimmy.core.events import Accepted, Embedded, Event, Finished, TextDelta, Timings, Usage
from shimmy.core.keys import ApiKey
from shimmy.server.limits import Bucket, Limits, Meter
from tests.program import inside
from tests.server.live import Live, chat_body, run_live, with_settings

SECOND = 10**9
MINUTE = 60 * SECOND
steps = st.lists(st.tuples(st.integers(0, 3 * MINUTE), st.integers(0, 5000)), max_size=40)


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class Model:
    """A token bucket as the textbook has it."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self.level, self.at = Fraction(per_minute), 0

    def refill(self, now: int) -> None:
        gained = Fraction((now - self.at) * self.per_minute, MINUTE)
        self.level, self.at = min(Fraction(self.per_minute), self.level + gained), now

    def wait(self, count: int) -> int:
        missing = min(Fraction(count), Fraction(self.per_minute)) - self.level
        return max(0, ceil(missing * MINUTE / self.per_minute))


@given(per_minute=st.integers(1, 10**12), steps=steps)
def test_a_bucket_is_exact(per_minute: int, steps: list[tuple[int, int]]) -> None:
    bucket, model, now = Bucket(per_minute, 0), Model(per_minute), 0
    for pause, count in steps:
        now += pause
        model.refill(now)
        assert bucket.wait(count, now) == model.wait(count)
        bucket.take(count, now)
        model.level -= count


@given(per_minute=st.integers(1, 10**6), debt=st.integers(0, 10**6), at=st.integers(0, 10**18))
def test_the_wait_is_as_long_as_it_has_to_be_and_no_longer(per_minute: int, debt: int, at: int) -> None:
    bucket = Bucket(per_minute, at)
    bucket.take(debt, at)
    wait = bucket.wait(1, at)
    assert bucket.wait(1, at + wait) == 0
    if wait:
        assert bucket.wait(1, at + wait - 1) == 1


@given(per_minute=st.integers(1, 100), pauses=st.lists(st.integers(0, 10 * SECOND), max_size=200))
def test_no_minute_sees_more_than_a_full_bucket_and_its_refill(per_minute: int, pauses: list[int]) -> None:
    clock = Clock()
    limits = Limits(clock)
    limits.set({"a": ApiKey.of("a", requests_per_minute=per_minute)})
    admitted = []
    for pause in pauses:
        clock.now += pause
        try:
            with limits.hold("a"):
                admitted.append(clock.now)
        except RateLimited:
            pass
    for first in admitted:
        assert sum(first <= each < first + MINUTE for each in admitted) <= 2 * per_minute


def limited(clock: Clock | None = None, **fields: int) -> Limits:
    limits = Limits(clock or Clock())
    limits.set({"a": ApiKey.of("a", **fields), "b": ApiKey.of("b", **fields), "free": ApiKey.of("free")})
    return limits


def refusal(limits: Limits, tenant: str = "a") -> RateLimited:
    with pytest.raises(RateLimited) as refused, limits.hold(tenant):
        pass
    return refused.value


def test_requests_per_minute() -> None:
    clock = Clock()
    limits = limited(clock, requests_per_minute=2)
    for _ in range(2):
        with limits.hold("a"):
            pass
    refused = refusal(limits)
    assert refused.details == {"retry_after_seconds": 30.0} and "2 requests per minute" in refused.message
    with limits.hold("b"), limits.hold("free"), limits.hold("unknown"):
        pass
    clock.now += 30 * SECOND
    with limits.hold("a"):
        pass
    refusal(limits)


def test_tokens_are_counted_after_the_fact() -> None:
    clock = Clock()
    limits = limited(clock, tokens_per_minute=60)
    with limits.hold("a"):
        limits.spend("a", 90)
    assert refusal(limits).details == {"retry_after_seconds": 31.0}
    with limits.hold("b"):
        pass
    clock.now += 31 * SECOND
    with limits.hold("a"):
        pass


def test_requests_at_a_time() -> None:
    limits = limited(max_concurrent=1)
    with limits.hold("a"):
        assert refusal(limits).details["retry_after_seconds"] > 0
        with limits.hold("b"):
            pass
    with pytest.raises(KeyError), limits.hold("a"):
        raise KeyError
    with limits.hold("a"):
        pass


def test_who_is_refused_pays_nothing() -> None:
    clock = Clock()
    limits = limited(clock, requests_per_minute=2, max_concurrent=1)
    with limits.hold("a"):
        for _ in range(5):
            refusal(limits)
    with limits.hold("a"):
        pass


def test_other_keys_do_not_give_what_was_used_back() -> None:
    clock = Clock()
    limits = limited(clock, requests_per_minute=1)
    with limits.hold("a"):
        same = ApiKey.of("a", requests_per_minute=1)
        limits.set({"a": same})
        refusal(limits)
        limits.set({"a": ApiKey.of("a", requests_per_minute=2)})
        with limits.hold("a"):
            pass
    limits.set({})
    assert not limits._allowances


TIMINGS = Timings(0, 0, 0)
EVENTS: list[tuple[Event, int]] = [
    (Accepted("r", 7), 7),
    (TextDelta("r", 0, "a"), 1),
    (TextDelta("r", 1, "b"), 1),
    (TextDelta("r", 0, "c"), 1),
    (Finished("r", 0, "stop", Usage(7, 5), TIMINGS), 3),
    (Finished("r", 1, "stop", Usage(7, 1), TIMINGS), 0),
]


@pytest.mark.parametrize("num_seen", range(len(EVENTS) + 1))
def test_whoever_leaves_early_has_spent_what_came(num_seen: int) -> None:
    spent: list[int] = []
    meter = Meter(spent.append)
    for event, _ in EVENTS[:num_seen]:
        meter.note([event])
    assert sum(spent) == sum(count for _, count in EVENTS[:num_seen])
    if num_seen == len(EVENTS):
        assert sum(spent) == 7 + 5 + 1


def test_each_input_that_is_embedded_counts_once() -> None:
    spent: list[int] = []
    meter = Meter(spent.append)
    for index, num_tokens in ((0, 5), (2, 7), (0, 5), (1, 1)):
        meter.note([Embedded("r", index, num_tokens, b"")])
    assert sum(spent) == 13


KEYS = (
    ApiKey.of("few", requests_per_minute=2, name="few"),
    ApiKey.of("short", tokens_per_minute=1),
    ApiKey.of("one", max_concurrent=1),
    ApiKey.of("free"),
)


def on_the_wire(test: Callable[[Live], Awaitable[None]]) -> None:
    run_live(test, settings=with_settings(api_keys=KEYS))


@pytest.mark.program
def test_a_limit_is_a_429_that_says_when_to_come_back() -> None:
    async def test(server: Live) -> None:
        for _ in range(2):
            assert (await server.ask("GET", "/v1/models", x_api_key="few")).status == 200
        refused = await server.ask("POST", "/v1/completions", b"{}", x_api_key="few")
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert refused.error["type"] == "rate_limit_error"
        assert 0 < int(refused.headers["retry-after-ms"]) <= 30_000
        assert 0 < int(refused.headers["retry-after"]) <= 30
        assert refused.headers["x-should-retry"] == "true" and "connection" not in refused.headers
        for _ in range(5):
            assert (await server.ask("GET", "/v1/models", x_api_key="free")).status == 200
            assert (await server.ask("GET", "/health", x_api_key="few")).status == 200

    on_the_wire(test)


@pytest.mark.program
@pytest.mark.parametrize("stream", [True, False])
def test_tokens_of_prompt_and_answer_count(stream: bool) -> None:
    async def test(server: Live) -> None:
        body = chat_body("hello you", stream=stream)
        assert (await server.ask("POST", "/v1/chat/completions", body, x_api_key="short")).status == 200
        refused = await server.ask("POST", "/v1/chat/completions", body, x_api_key="short")
        assert (refused.status, refused.error["code"]) == (429, "rate_limit_exceeded")
        assert int(refused.headers["retry-after"]) > 60
        assert (await server.ask("POST", "/v1/chat/completions", body, x_api_key="free")).status == 200

    on_the_wire(test)


@inside("how many are inside")
@pytest.mark.program
def test_a_place_comes_back_when_its_client_leaves() -> None:
    async def test(server: Live) -> None:
        stall = chat_body("!stall 1", stream=True)
        async with server.connect() as client:
            await client.request("POST", "/v1/chat/completions", stall, x_api_key="one")
            await server.until_active(1)
            assert (await server.ask("GET", "/v1/models", x_api_key="one")).status == 429
            assert (await server.ask("GET", "/v1/models", x_api_key="free")).status == 200
        await server.until_idle()
        assert (await server.ask("GET", "/v1/models", x_api_key="one")).status == 200

    on_the_wire(test)


@pytest.mark.program
def test_many_at_once_and_no_more() -> None:
    async def test(server: Live) -> None:
        async with asyncio.TaskGroup() as group:
            asks = [group.create_task(server.ask("GET", "/v1/models", x_api_key="few")) for _ in range(20)]
        assert sorted(ask.result().status for ask in asks) == [200] * 2 + [429] * 18

    on_the_wire(test)
