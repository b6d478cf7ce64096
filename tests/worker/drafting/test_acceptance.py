"""Drafts are as long as pays: by how often guesses were right, and what rows cost."""

import pytest

from shimmy.worker.drafting.acceptance import Acceptance, RowCosts


def costs(fixed: float, row: float, *, num_rows: tuple[int, ...] = (1, 3, 8, 2, 5)) -> RowCosts:
    found = RowCosts()
    for count in num_rows * 20:
        found.observe(count, fixed + row * count)
    return found


def test_the_line_through_steps_is_found() -> None:
    found = costs(0.010, 0.002)
    assert found.seconds(1) == pytest.approx(0.012, rel=0.1)
    assert found.seconds(8) == pytest.approx(0.026, rel=0.1)


@pytest.mark.parametrize(("fixed", "row", "least"), [(0.010, 0.0, 0.02), (0.010, 0.010, 0.5), (0.0, 0.010, 1.0)])
def test_a_row_is_worth_what_it_costs(fixed: float, row: float, least: float) -> None:
    assert costs(fixed, row).least_chance(1, 0.0) == pytest.approx(least, abs=0.05)


def test_more_sequences_share_the_fixed_part_so_that_drafts_save_less() -> None:
    found = costs(0.010, 0.005)
    assert found.least_chance(1, 0.0) < found.least_chance(4, 0.0) < found.least_chance(8, 0.0) < 1


def test_a_guess_that_takes_time_must_be_better() -> None:
    found = costs(0.010, 0.005)
    assert found.least_chance(1, 0.003) == pytest.approx(found.least_chance(1, 0.0) + 0.2, abs=0.02)
    assert found.least_chance(1, 0.1) > 1


def test_steps_of_one_kind_say_nothing_of_a_row_and_a_stall_says_nothing_at_all() -> None:
    found = costs(0.010, 0.005, num_rows=(1,))
    assert found.least_chance(1, 0.0) == pytest.approx(1 / 3, abs=0.01)
    before = found.seconds(1)
    found.observe(1, 10.0)
    assert found.seconds(1) < 1.2 * before


def test_before_anything_is_known_a_guess_is_made() -> None:
    assert RowCosts().least_chance(1, 0.0) == pytest.approx(1 / 3)


def test_right_guesses_make_drafts_longer_and_wrong_ones_shorter() -> None:
    acceptance = Acceptance()
    first = acceptance.length(0.5)
    acceptance.observe(20, then_wrong=False)
    assert acceptance.length(0.5) > 5 > first > 0
    for _ in range(3):
        acceptance.observe(0, then_wrong=True)
    assert 0 < acceptance.length(0.5) < 5
    for _ in range(20):
        acceptance.observe(0, then_wrong=True)
    assert acceptance.length(0.5) == 0


def test_nothing_is_so_certain_that_any_length_pays() -> None:
    acceptance = Acceptance()
    acceptance.observe(10_000, then_wrong=False)
    assert acceptance.length(0.9) < 20
    assert acceptance.length(1.0) == acceptance.length(1.5) == 0
