"""What one API key may use: requests and tokens per minute, and requests at a time. Other keys never notice.

Knows tenants and counts; who a tenant is, guards.py knows, and what a token is, the worker.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from shimmy.core.errors import RateLimited
from shimmy.core.events import Accepted, Embedded, Event, Finished
from shimmy.core.keys import ApiKey

_MINUTE = 60_000_000_000
_SECOND = 1_000_000_000.0
# Until another request of the same key may have ended.
_CONCURRENT_RETRY_SECONDS = 1


class Bucket:
    """A token bucket in whole numbers, so that nothing is lost to rounding: full it holds `per_minute`, and as many
    come back each minute, evenly. `now` is always in nanoseconds of a monotonic clock."""

    def __init__(self, per_minute: int, now: int) -> None:
        self._per_minute = per_minute
        # In nanoseconds of refilling, times `per_minute`: one unit of what is counted is a `_MINUTE`.
        self._level = self._capacity = per_minute * _MINUTE
        self._at = now

    def wait(self, count: int, now: int) -> int:
        """In how many nanoseconds `count` can be taken without debt; 0 is now. More than the bucket holds counts as
        all that it holds."""
        missing = min(count * _MINUTE, self._capacity) - self._refilled(now)
        return max(0, -(-missing // self._per_minute))

    def take(self, count: int, now: int) -> None:
        """What was used already is taken in any case: the level may fall below zero."""
        self._level = self._refilled(now) - count * _MINUTE

    def _refilled(self, now: int) -> int:
        self._level = min(self._capacity, self._level + (now - self._at) * self._per_minute)
        self._at = now
        return self._level


class Allowance:
    """What one tenant has left."""

    def __init__(self, key: ApiKey, now: int) -> None:
        self._key = key
        self._requests = Bucket(key.requests_per_minute, now) if key.requests_per_minute else None
        self._tokens = Bucket(key.tokens_per_minute, now) if key.tokens_per_minute else None
        self._num_running = 0

    @contextmanager
    def hold(self, now: int) -> Iterator[None]:
        """One request. Raises `RateLimited`, and then nothing was taken."""
        most = self._key.max_concurrent
        if most is not None and self._num_running >= most:
            raise _limited(f"{most} requests at a time", _CONCURRENT_RETRY_SECONDS)
        self._check(self._tokens, f"{self._key.tokens_per_minute} tokens per minute", now)
        self._check(self._requests, f"{self._key.requests_per_minute} requests per minute", now)
        if self._requests:
            self._requests.take(1, now)
        self._num_running += 1
        try:
            yield
        finally:
            self._num_running -= 1

    def spend(self, num_tokens: int, now: int) -> None:
        if self._tokens:
            self._tokens.take(num_tokens, now)

    def fits(self, key: ApiKey) -> bool:
        return self._key == key

    @staticmethod
    def _check(bucket: Bucket | None, limit: str, now: int) -> None:
        if bucket and (nanoseconds := bucket.wait(1, now)):
            raise _limited(limit, nanoseconds / _SECOND)


class Limits:
    """Owns the allowances of all tenants that have limits, and nothing of those that have none."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._allowances: dict[str, Allowance] = {}

    def set(self, keys: Mapping[str, ApiKey]) -> None:
        """These tenants from now on. Who is the same as before keeps what is left; who has other limits begins anew."""
        now, before = self._clock(), self._allowances
        limited = {tenant: key for tenant, key in keys.items() if _is_limited(key)}
        self._allowances = {
            tenant: before[tenant] if tenant in before and before[tenant].fits(key) else Allowance(key, now)
            for tenant, key in limited.items()
        }

    def hold(self, tenant: str) -> AbstractContextManager[None]:
        """For as long as a request of `tenant` takes. Entering it raises `RateLimited`."""
        allowance = self._allowances.get(tenant)
        return allowance.hold(self._clock()) if allowance else nullcontext()

    def spend(self, tenant: str, num_tokens: int) -> None:
        """Tokens that were computed for `tenant`, of prompts and answers alike."""
        if num_tokens and (allowance := self._allowances.get(tenant)):
            allowance.spend(num_tokens, self._clock())

    def meter(self, tenant: str) -> "Meter | None":
        """For the events of one request; None where nobody counts."""
        return Meter(lambda num_tokens: self.spend(tenant, num_tokens)) if tenant in self._allowances else None


class Meter:
    """Counts the tokens of one request while they come, so that who leaves early has spent them all the same.

    A delta is one token until the choice's end tells how many there were.
    """

    def __init__(self, spend: Callable[[int], None]) -> None:
        self._spend = spend
        self._counted: dict[int, int] = {}

    def note(self, events: Iterable[Event]) -> None:
        num_tokens = 0
        for event in events:
            if isinstance(event, Accepted):
                num_tokens += event.prompt_tokens
            elif isinstance(event, Embedded):
                # One that comes a second time was computed for a worker that was lost.
                num_tokens += 0 if event.index in self._counted else event.num_tokens
                self._counted[event.index] = event.num_tokens
            elif isinstance(event, Finished):
                num_tokens += event.usage.completion_tokens - self._counted.pop(event.index, 0)
            elif (index := getattr(event, "index", None)) is not None:
                self._counted[index] = self._counted.get(index, 0) + 1
                num_tokens += 1
        self._spend(num_tokens)


def _is_limited(key: ApiKey) -> bool:
    return any((key.requests_per_minute, key.tokens_per_minute, key.max_concurrent))


def _limited(limit: str, seconds: float) -> RateLimited:
    return RateLimited(f"this API key is limited to {limit}", retry_after_seconds=seconds)
