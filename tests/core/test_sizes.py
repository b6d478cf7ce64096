import pytest
from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.sizes import binary_size, free_size

GIB = 1 << 30


@pytest.mark.parametrize(
    ("num_bytes", "taken", "free"),
    [
        (0, "0 MiB", "0 MiB"),
        (1000, "1 MiB", "0 MiB"),
        (512 << 20, "512 MiB", "512 MiB"),
        (GIB - 1, "1024 MiB", "1023 MiB"),
        (GIB + GIB // 2, "1.5 GiB", "1.5 GiB"),
        (10 * GIB + 1, "10.1 GiB", "10.0 GiB"),
    ],
)
def test_what_is_taken_is_rounded_up_and_what_is_free_down(num_bytes: int, taken: str, free: str) -> None:
    assert (binary_size(num_bytes), free_size(num_bytes)) == (taken, free)


@given(st.integers(0, 1 << 50), st.integers(1, 1 << 30))
def test_what_does_not_fit_never_reads_like_what_is_free(free: int, more: int) -> None:
    assert binary_size(free + more) != free_size(free)
