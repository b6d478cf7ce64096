"""What is kept of what was compiled."""

from shimmy.worker.constraints.cache import Cache


def test_the_least_recently_used_goes_first() -> None:
    cache: Cache[str] = Cache(10)
    made = []

    def get(key: str) -> str:
        def make() -> str:
            made.append(key)
            return key.upper()

        return cache.get(key, make, lambda value: 4)

    assert [get("a"), get("b"), get("a"), get("c"), get("a"), get("b")] == ["A", "B", "A", "C", "A", "B"]
    assert made == ["a", "b", "c", "b"]
    assert cache.num_bytes == 8


def test_what_is_too_large_is_not_kept() -> None:
    cache: Cache[int] = Cache(10)
    assert [cache.get("a", lambda: 1, lambda _: 11), cache.get("a", lambda: 2, lambda _: 10)] == [1, 2]
    assert cache.num_bytes == 10


def test_what_was_dropped_is_made_anew() -> None:
    cache: Cache[int] = Cache(10)
    cache.get("a", lambda: 1, lambda _: 4)
    cache.drop("a")
    cache.drop("b")
    assert cache.num_bytes == 0
    assert cache.get("a", lambda: 2, lambda _: 4) == 2
