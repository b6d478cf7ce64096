from math import inf, isfinite

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.durations import keep_alive_seconds
from shimmy.core.errors import RequestError


@pytest.mark.parametrize(
    ("said", "seconds"),
    [(None, None), (0, 0), (300, 300), (0.5, 0.5), (-1, inf), (-0.5, inf), (float("inf"), inf), ("300", 300), ("0", 0)]
    + [("5m", 300), ("1h30m", 5400), ("1.5h", 5400), (".5s", 0.5), ("0h0m", 0), ("+2s", 2), ("-1", inf), ("-1m", inf)]
    + [("250ms", 0.25), ("1us", 1e-6), ("1µs", 1e-6), ("1μs", 1e-6), ("3ns", 3e-9), (" 24h ", 86400), ("-0s", 0)],
)
def test_durations(said: str | float | None, seconds: float | None) -> None:
    assert keep_alive_seconds(said, "keep_alive") == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "said", ["", "soon", "5 m", "5d", "m", "1h30", "h1", "--1", "1e3", "٣s", "0x1s", "nan", "5m" * 40]
)
def test_what_is_no_duration(said: str) -> None:
    with pytest.raises(RequestError, match=r"keep_alive: .* is no duration") as raised:
        keep_alive_seconds(said, "keep_alive")
    assert raised.value.param == "keep_alive"


@given(st.text(alphabet="0123456789.smhnuµ+- ", max_size=70) | st.floats() | st.integers())
def test_whatever_is_said_it_is_a_duration_or_refused(said: str | float) -> None:
    try:
        seconds = keep_alive_seconds(said, "keep_alive")
    except RequestError:
        return
    assert seconds is not None and (seconds == inf or (isfinite(seconds) and seconds >= 0))
