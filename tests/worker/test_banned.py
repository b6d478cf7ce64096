"""What must not come, and when."""

import pytest

from shimmy.core.request import Generation, Sampling, Tokens
from shimmy.worker.banned import Ban, Banned, banned_by, must_be_watched


class Letters:
    """Tokens are characters, and "$" ends a text."""

    end_tokens = frozenset({ord("$")})
    suppressed_tokens: frozenset[int] = frozenset()

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        assert not add_special
        return [ord(letter) for letter in text]


def banned(stop_tokens: tuple[int, ...] = (), **fields: object) -> Banned:
    sampling = Sampling(**fields)  # type: ignore[arg-type]
    prompt = Tokens([1])
    generation = Generation(id="", model="", prompt=prompt, sampling=sampling, stop_tokens=list(stop_tokens))
    return banned_by(generation, Letters())


def test_nothing_is_banned_unasked() -> None:
    assert banned() == Banned()
    assert not must_be_watched(banned())


def test_end_tokens_always_or_until_enough_has_come() -> None:
    assert banned(ignore_eos=True) == Banned(always=frozenset({ord("$")}))
    early = banned((7, 8), min_tokens=2)
    assert early.early == {ord("$"), 7, 8}
    ban = Ban(early)
    for expected in ({ord("$"), 7, 8}, {ord("$"), 7, 8}, set(), set()):
        assert set(ban.tokens()) == expected
        ban.observe(5)


def test_what_the_file_suppresses_is_always_banned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Letters, "suppressed_tokens", frozenset({3, 4}))
    assert banned() == Banned(always=frozenset({3, 4}))


def test_words_are_banned_with_and_without_a_space() -> None:
    found = banned(bad_words=["x", "ab", " "])
    assert found.always == {ord("x")}
    assert {"".join(map(chr, sequence)) for sequence in found.after} == {" x", "ab", " ab"}
    assert banned(bad_words=[" x", "  ab"]) == found


@pytest.mark.parametrize(
    ("said", "expected"),
    [("", ""), ("a", "b"), ("ca", "b"), ("b", ""), ("ab", "c"), ("aab", "c"), ("abab", "c"), ("z", "q"), ("az", "qw")],
)
def test_the_last_token_is_banned_after_the_others(said: str, expected: str) -> None:
    ban = Ban(Banned(after=tuple(tuple(map(ord, word)) for word in ("ab", "abc", "zq", "azw"))))
    for letter in said:
        ban.observe(ord(letter))
    assert "".join(sorted(map(chr, ban.tokens()))) == expected
