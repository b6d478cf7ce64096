"""Whatever happens to the files: a miss, never a wrong state and never an error."""

import os
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from shimmy.worker.disk.index import MIN_TOKENS
from shimmy.worker.disk.scope import Scope
from tests.worker.disk import prefixes
from tests.worker.disk.prefixes import KEY, fetch, files, offer, prefix, state_after, store, tier_in, until

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_damaged_entry_is_a_miss_and_goes(folder: Path, key: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    store(folder, 1, 2, key=key)
    tier = tier_in(folder, key=key)
    path = folder / Scope(b"model", b"", key).name(prefix(1))
    path.write_bytes(path.read_bytes()[:-100] + bytes(100))
    assert fetch(tier, prefix(1)) is None
    assert not path.exists()
    assert len(caplog.records) == 1
    assert fetch(tier, prefix(2)) == state_after(prefix(2))
    until(lambda: offer(tier, prefix(1)))
    tier.close(60.0)
    until(lambda: fetch(tier, prefix(1)) == state_after(prefix(1)))


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_change_anywhere_is_a_miss(folder: Path, key: bytes | None) -> None:
    tier = tier_in(folder, key=key)
    tier.offer(prefix(1, MIN_TOKENS), "", b"a state")
    tier.close(60.0)
    [path] = files(folder)
    content = path.read_bytes()
    assert fetch(tier, prefix(1, MIN_TOKENS)) == b"a state"
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        assert fetch(tier_in(folder, key=key), prefix(1, MIN_TOKENS)) is None
        assert not path.exists()


def test_an_entry_that_went_meanwhile_is_a_miss(folder: Path) -> None:
    store(folder, 1)
    tier = tier_in(folder)
    hit = tier.match(prefix(1, 101), "")
    files(folder)[0].unlink()
    assert hit and tier.fetch(hit) is None


def test_a_removed_folder_comes_back(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    tier = tier_in(folder)
    for number in range(3):
        assert offer(tier, prefix(number))
        until(partial(fetch, tier, prefix(number)))
        hit = tier.match(prefix(number, 101), "")
        shutil.rmtree(folder.parent)
        assert hit and tier.fetch(hit) is None
        assert tier.match(prefix(number, 101), "") is None
    tier.close(60.0)
    assert caplog.records == []


def test_a_folder_that_is_removed_during_a_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tier = tier_in(folder)
    fsync = os.fsync

    def remove_once(descriptor: int) -> None:
        monkeypatch.setattr("os.fsync", fsync)
        shutil.rmtree(folder)

    monkeypatch.setattr("os.fsync", remove_once)
    assert offer(tier, prefix(1))
    tier.close(60.0)
    assert fetch(tier, prefix(1)) == state_after(prefix(1))


def test_a_folder_that_cannot_be_is_a_miss_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    tier = tier_in(tmp_path / "file" / "prefixes")
    for number in range(3):
        assert fetch(tier, prefix(number)) is None
        assert offer(tier, prefix(number))
    tier.close(60.0)
    assert [record.message for record in caplog.records] == [
        f"states cannot be kept in {tmp_path}/file/prefixes as they should: Not a directory"
    ]


def test_a_folder_of_another_user_is_a_miss_with_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store(folder, 1)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    tier = tier_in(folder)
    for number in (1, 2, 3):
        assert fetch(tier, prefix(number)) is None
        offer(tier, prefix(number))
    tier.close(60.0)
    assert len(files(folder)) == 1
    assert [record.message.partition(": ")[2] for record in caplog.records] == ["belongs to another user"]


def test_a_full_disk_is_a_miss_with_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No file may grow past a limit: writing stops in the middle, as on a disk without space (EFBIG for ENOSPC)."""
    store(folder, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    tier = tier_in(folder, 10 << 20)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, limits[1]))
    try:
        for number in (2, 3):
            assert offer(tier, prefix(number), size=2_000_000)
        tier.close(60.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert fetch(tier, prefix(1)) == state_after(prefix(1))
    assert fetch(tier, prefix(2)) is None
    assert len(files(folder)) == 1, "nothing half written"
    assert [record.message.partition(": ")[2] for record in caplog.records] == ["File too large"]


@pytest.mark.skipif(not shutil.which("unshare"), reason="there is no unshare")
def test_a_file_system_without_space(folder: Path) -> None:
    """A real one, where the machine lets us have one."""
    process = start("fill_file_system", folder, 20, before=("unshare", "--mount", "--map-root-user"))
    output, errors = process.communicate(timeout=60)
    if process.returncode == prefixes.NO_MOUNT or errors.startswith("unshare: "):
        pytest.skip(f"there is none to be had: {errors.strip()}")
    found, num_files = (int(number) for number in output.split())
    assert 0 < found < 20
    assert num_files == found, "nothing half written"
    assert errors.count("No space left on device") == 1


@pytest.mark.slow
def test_two_processes_share_a_folder(folder: Path) -> None:
    users = [start("use_for", folder, 1, seed) for seed in (1, 2)]
    found = [int(finished(user)) for user in users]
    assert min(found) > prefixes.NUM_FOUND
    sizes = [path.stat().st_size for path in files(folder)]
    assert 300_000 < sum(sizes) < prefixes.BUDGET + 31_000, "at most the one that the other was writing too many"
    assert [path for path in files(folder) if path.suffix != ".kv"] == []


@pytest.mark.slow
def test_killed_writers_leave_no_wrong_state(folder: Path) -> None:
    found, unfinished = finished(start("kill_writers", folder, 200)).split()
    assert int(found) > 100
    assert int(unfinished) > 20, "too few were killed while they wrote"
    store(folder, 1000)
    assert [path for path in files(folder) if path.suffix != ".kv"] == []


def start(*arguments: object, before: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    command = [*before, sys.executable, "-m", "tests.worker.disk.prefixes", *(str(each) for each in arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


def finished(process: "subprocess.Popen[str]") -> str:
    try:
        output, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return output
