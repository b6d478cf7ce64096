"""What is left of memory, from files as Linux writes them."""

import sys
from pathlib import Path

import pytest

from shimmy.hardware.memory import Memory, anonymous_bytes, memory

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    700 kB\nHugePages_Total:       0\n"
STATUS = "Name:\tshimmy worker\nUmask:\t0022\nRssAnon:\t      30 kB\nRssFile:\t     200 kB\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(STATUS)
    (tmp_path / "meminfo").write_text(MEMINFO)
    return tmp_path


def test_a_mapped_model_is_not_left_for_others(proc: Path) -> None:
    assert memory(proc, proc / "nothing") == Memory(1000 << 10, 500 << 10)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max\n", Memory(1000 << 10, 500 << 10)), (f"{600 << 10}\n", Memory(600 << 10, 150 << 10))],
)
def test_a_container_has_what_its_limit_leaves(limit: str, expected: Memory, proc: Path, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(f"{550 << 10}\n")
    (tmp_path / "memory.stat").write_text(f"anon 4096\nactive_file {200 << 10}\ninactive_file {100 << 10}\n")
    assert memory(proc, tmp_path) == expected


def test_nothing_is_known_where_the_system_does_not_say(tmp_path: Path) -> None:
    assert memory(tmp_path, tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="it has no /proc")
def test_this_machine_has_some() -> None:
    found = memory()
    assert found and 0 < found.available_bytes < found.total_bytes


def test_every_group_around_a_process_may_have_a_limit(proc: Path, tmp_path: Path) -> None:
    (proc / "self/cgroup").write_text("1:name=other:/elsewhere\n0::/user.slice/shimmy.service\n")
    for folder, limit, used in (("user.slice", 800, 700), ("user.slice/shimmy.service", 900, 100)):
        group = tmp_path / "groups" / folder
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit << 10}\n")
        (group / "memory.current").write_text(f"{used << 10}\n")
        (group / "memory.stat").write_text("anon 4096\n")
    assert memory(proc, tmp_path / "groups") == Memory(800 << 10, 0)
    (tmp_path / "groups/user.slice/memory.max").write_text("max\n")
    assert memory(proc, tmp_path / "groups") == Memory(900 << 10, 500 << 10)


def test_what_is_a_process_s_own(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/status").write_text(STATUS)
    assert anonymous_bytes(7, tmp_path) == 30 << 10
    assert anonymous_bytes(8, tmp_path) is None
