"""The tier from outside: what was offered is found again, by everyone whom it is for."""

import array
import os
import shutil
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shimmy.worker.disk import entry, writer
from shimmy.worker.disk import tier as module
from shimmy.worker.disk.index import MIN_TOKENS
from shimmy.worker.disk.scope import Scope
from shimmy.worker.disk.tier import MAX_READ_PER_GAIN, DiskTier
from tests.worker.disk.prefixes import (
    BUDGET,
    KEY,
    any_part,
    fetch,
    files,
    offer,
    only_all,
    prefix,
    state_after,
    store,
    tier_in,
    until,
)

OTHER_KEY = b"o" * 32


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that has written nothing before the event is set."""
    fsync, may_end = os.fsync, threading.Event()

    def slow(descriptor: int) -> None:
        may_end.wait(60)
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", slow)
    return may_end


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_state_outlives_the_tier(folder: Path, key: bytes | None) -> None:
    store(folder, 1, 2, key=key)
    tier = tier_in(folder, key=key)
    assert fetch(tier, prefix(1)) == state_after(prefix(1))
    assert fetch(tier, prefix(2)) == state_after(prefix(2))
    assert fetch(tier, prefix(3)) is None


def test_what_one_server_stores_another_one_finds(folder: Path) -> None:
    one, other = tier_in(folder), tier_in(folder)
    for number in range(3):
        assert fetch(other, prefix(number)) is None
        assert offer(one, prefix(number))
        until(partial(fetch, other, prefix(number)))
        assert fetch(other, prefix(number)) == state_after(prefix(number))
    one.close(60.0)


def test_a_prompt_is_found_in_what_was_answered_to_it(folder: Path) -> None:
    store(folder, 1)
    hit = tier_in(folder).match(prefix(1, 90), "")
    assert hit and (hit.length, hit.stored) == (89, 100), "one token is left"
    assert tier_in(folder).fetch(hit) == state_after(prefix(1, 100))
    parting = prefix(1, 80) + prefix(2, 50)
    hit = tier_in(folder).match(parting, "")
    assert hit and (hit.length, hit.stored) == (80, 100)


def test_where_a_state_fits_only_its_very_end(folder: Path) -> None:
    store(folder, 1)
    tier = DiskTier(folder, BUDGET, b"model", only_all)
    lengths = (90, 100, 101, 200)
    assert [hit and hit.length for hit in (tier.match(prefix(1, length), "") for length in lengths)] == [
        None,
        None,
        100,
        100,
    ]
    assert tier.wants(prefix(1, 90), "", 1000)
    assert not tier.wants(prefix(1, 100), "", 1000)


pieces = st.lists(st.tuples(st.sampled_from([1, 2]), st.integers(1, 2 * MIN_TOKENS)), min_size=1, max_size=3)


@settings(max_examples=60)
@given(st.lists(pieces, max_size=6), pieces, st.booleans())
def test_a_match_is_the_best_there_is(
    tmp_path_factory: pytest.TempPathFactory,
    stored: list[list[tuple[int, int]]],
    wanted: list[tuple[int, int]],
    recurrent: bool,
) -> None:
    """Token sequences that begin alike and part somewhere."""
    folder, fits = tmp_path_factory.mktemp("states"), only_all if recurrent else any_part
    scope, tokens = Scope(b"model", b"", None), joined(wanted)
    for each in map(joined, stored):
        (folder / scope.name(each)).write_bytes(b"".join(entry.write(scope, each, b"state")))
    possible = [(common(tokens[:-1], each), -len(each)) for each in map(joined, stored)]
    good = [(length, rest) for length, rest in possible if length >= MIN_TOKENS and fits(length, -rest)]
    hit = DiskTier(folder, BUDGET, b"model", fits).match(tokens, "")
    assert (hit and (hit.length, -hit.stored)) == max(good, default=None)


def joined(parts: list[tuple[int, int]]) -> "array.array[int]":
    return sum((prefix(number, length) for number, length in parts), array.array("i"))


def common(one: "array.array[int]", other: "array.array[int]") -> int:
    return len(os.path.commonprefix([one.tolist(), other.tolist()]))


def test_where_prompts_part(folder: Path) -> None:
    store(folder, 1)
    tier = DiskTier(folder, BUDGET, b"model", only_all)
    assert tier.parting(prefix(1, 80) + prefix(2), "") == 80
    assert tier.parting(prefix(1, 70), "") == 70
    assert tier.parting(prefix(1, 200), "") == 100
    assert tier.parting(prefix(1, 63) + prefix(2), "") == tier.parting(prefix(1), "adapter") == 0


def test_a_long_state_is_not_read_for_a_short_prompt(folder: Path) -> None:
    tier = tier_in(folder)
    offer(tier, prefix(1, MIN_TOKENS * MAX_READ_PER_GAIN + 1))
    tier.close(60.0)
    assert tier.match(prefix(1, MIN_TOKENS + 1), "") is None
    assert tier.match(prefix(1, MIN_TOKENS + 2), "")


def test_a_state_replaces_those_that_it_is_as_good_as(folder: Path) -> None:
    """The turns of a conversation: each state contains the one before."""
    for fits, kept in ((any_part, [200]), (only_all, [100, 150, 200])):
        shutil.rmtree(folder, ignore_errors=True)
        tier = DiskTier(folder, BUDGET, b"model", fits)
        for length in (100, 150, 200):
            assert offer(tier, prefix(1, length))
            until((folder / Scope(b"model", b"", None).name(prefix(1, length))).exists)
        offer(tier, prefix(2))
        tier.close(60.0)
        lengths = [hit.stored for length in range(101, 202) if (hit := tier.match(prefix(1, length), ""))]
        assert sorted(set(lengths)) == kept
        assert fetch(tier, prefix(2))


def test_what_does_not_belong_together_does_not_meet(folder: Path) -> None:
    tier, tokens = tier_in(folder), prefix(1)
    spaces = ["", "adapter", tier.unlock("", KEY), tier.unlock("", OTHER_KEY), tier.unlock("adapter", KEY)]
    for number, namespace in enumerate(spaces):
        assert tier.match(tokens + tokens, namespace) is None
        assert tier.wants(tokens, namespace, 10)
        tier.offer(tokens, namespace, b"state %d" % number)
    tier.close(60.0)
    for number, namespace in enumerate(spaces):
        assert fetch(tier, tokens, namespace) == b"state %d" % number
    assert fetch(tier_in(folder, identity=b"another model or build"), tokens) is None
    assert fetch(tier_in(folder, key=OTHER_KEY), prefix(2)) is None


def test_a_wrong_key_leaves_the_entry_alone(folder: Path) -> None:
    store(folder, 1, key=KEY)
    for key in (None, OTHER_KEY):
        assert fetch(tier_in(folder, key=key), prefix(1)) is None
    tier = tier_in(folder)
    assert fetch(tier, prefix(1), tier.unlock("", OTHER_KEY)) is None
    assert fetch(tier_in(folder, key=KEY), prefix(1)) == state_after(prefix(1))


def test_a_forgotten_key_is_not_taken_for_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_SCOPES", 2)
    tier = tier_in(folder)
    namespace = tier.unlock("", KEY)
    assert offer(tier, prefix(1), namespace)
    for other in (b"1" * 32, b"2" * 32):
        tier.unlock("", other)
    assert not tier.wants(prefix(2), namespace, 1000)
    tier.offer(prefix(2), namespace, b"state")
    assert tier.match(prefix(1, 101), namespace) is None
    tier.close(60.0)
    assert len(files(folder)) == 1
    assert fetch(tier, prefix(1), tier.unlock("", KEY)) == state_after(prefix(1))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_key_of_another_length_is_refused(folder: Path, length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        tier_in(folder, key=bytes(length))
    with pytest.raises(ValueError, match="32 bytes"):
        tier_in(folder).unlock("", bytes(length))


def test_nothing_in_the_folder_shows_tokens_or_keys(folder: Path) -> None:
    store(folder, 1, key=KEY)
    [path] = files(folder)
    for secret in (prefix(1)[:2].tobytes(), state_after(prefix(1))[500:520], KEY):
        assert secret not in path.read_bytes()


def test_what_is_not_worthwhile_is_not_kept(folder: Path) -> None:
    tier = tier_in(folder)
    assert not tier.wants(prefix(1, MIN_TOKENS - 1), "", 1000)
    assert not tier.wants(prefix(1), "", BUDGET)
    assert tier.wants(prefix(1), "", BUDGET - 1000)
    tier.offer(prefix(1), "", bytes(BUDGET))
    tier.offer(prefix(1), "", b"")
    tier.close(60.0)
    assert not folder.exists()


def test_what_is_there_is_not_wanted_again(folder: Path) -> None:
    store(folder, 1)
    tier = tier_in(folder)
    assert not offer(tier, prefix(1))
    assert not offer(tier, prefix(1, 90)), "it is part of what is there"
    assert offer(tier, prefix(2))
    assert not offer(tier, prefix(2)), "it is there, or about to be"
    tier.close(60.0)


def test_what_saves_hardly_more_is_not_stored(folder: Path) -> None:
    tier = tier_in(folder)
    assert offer(tier, prefix(1, 1000))
    for num_more, wanted in ((60, False), (70, True)):
        tokens = prefix(1, 1000) + prefix(2, num_more)
        assert tier.wants(tokens, "", 1000) is wanted, "it waits"
    tier.close(60.0)
    tier = tier_in(folder)
    for num_more, wanted in ((60, False), (70, True)):
        tokens = prefix(1, 900) + prefix(2, 100 + num_more)
        assert tier.wants(tokens, "", 1000), "much more"
        tokens = prefix(1, 1000) + prefix(2, num_more)
        assert tier.wants(tokens, "", 1000) is wanted, "it is there"


def test_where_a_state_fits_only_its_end_each_is_stored(folder: Path) -> None:
    tier = DiskTier(folder, BUDGET, b"model", only_all)
    tier.offer(prefix(1, 1000), "", b"state")
    assert tier.wants(prefix(1, 900), "", 1000)
    assert not tier.wants(prefix(1, 1010), "", 1000)
    tier.close(60.0)


def test_a_state_replaces_those_that_wait_before_it(folder: Path, slow_disk: threading.Event) -> None:
    tier = tier_in(folder)
    for length in (100, 200, 300):
        assert offer(tier, prefix(1, length))
    slow_disk.set()
    tier.close(60.0)
    assert [path.name for path in files(folder)] == [Scope(b"model", b"", None).name(prefix(1, 300))]


def test_the_least_recently_used_goes_first(folder: Path) -> None:
    size = entry.size_of(Scope(b"", b"", None), 100, 20_000)
    tier = tier_in(folder, 3 * size)
    for number in (1, 2, 3):
        offer(tier, prefix(number))
    tier.close(60.0)
    tier = tier_in(folder, 3 * size)
    assert fetch(tier, prefix(1)), "a use"
    assert not tier.wants(prefix(2), "", 20_000), "counts as a use, too"
    offer(tier, prefix(4))
    tier.close(60.0)
    assert [number for number in (1, 2, 3, 4) if fetch(tier, prefix(number))] == [1, 2, 4]
    other = tier_in(folder, 2 * size, b"another model")
    offer(other, prefix(5))
    other.close(60.0)
    assert [number for number in (1, 2, 4) if fetch(tier, prefix(number))] == [4], "the budget is for all models"
    assert fetch(other, prefix(5))


def test_the_number_of_entries_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_ENTRIES", 3)
    store(folder, 1, 2, 3, 4, 5)
    tier = tier_in(folder)
    assert [number for number in range(1, 6) if fetch(tier, prefix(number))] == [3, 4, 5]


def test_a_slow_disk_does_not_hold_up_the_step_thread(
    folder: Path, slow_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_PENDING_BYTES", 50_000)
    tier = tier_in(folder)
    assert [offer(tier, prefix(number)) for number in range(5)] == [True, True, False, False, False]
    tier.close(0.0)
    assert not list(folder.glob("*.kv")), "nothing has waited for the disk"
    slow_disk.set()
    tier.close(60.0)
    assert [number for number in range(5) if fetch(tier, prefix(number))] == [0, 1]


def test_a_state_larger_than_the_queue_is_taken_when_nothing_waits(
    folder: Path, slow_disk: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_PENDING_BYTES", 10_000)
    tier = tier_in(folder)
    assert [offer(tier, prefix(number)) for number in range(2)] == [True, False]
    slow_disk.set()
    tier.close(60.0)
    assert fetch(tier, prefix(0))


def test_what_is_written_is_let_go_of(folder: Path) -> None:
    """The last one, too: the thread waits for the next with nothing in its hands."""
    tier = tier_in(folder)
    state = state_after(prefix(1))
    before = sys.getrefcount(state)
    tier.offer(prefix(1), "", state)
    until(lambda: sys.getrefcount(state) == before)
    assert fetch(tier, prefix(1)) == state
    tier.close(60.0)
