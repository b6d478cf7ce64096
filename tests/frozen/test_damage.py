"""An executable that did not arrive whole says so in one line, or works; it never shows a traceback."""

import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.frozen
CUTS = [100, 5_000, 200_000, 5_000_000]


def run(exe: Path, home: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    exe.chmod(0o755)
    return subprocess.run([exe, "--version"], env=home, capture_output=True, text=True, timeout=60)


def is_clear(done: "subprocess.CompletedProcess[str]", whole: str) -> bool:
    if done.returncode == 0:
        return done.stdout == whole
    return len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("cut", CUTS)
def test_a_short_file(exe: Path, home: dict[str, str], tmp_path: Path, cut: int) -> None:
    whole = run(exe, home).stdout
    damaged = tmp_path / "shimmy"
    damaged.write_bytes(exe.read_bytes()[:-cut])
    done = run(damaged, home)
    assert is_clear(done, whole), done.stderr


@pytest.mark.parametrize("length", CUTS)
def test_a_tail_of_zeros(exe: Path, home: dict[str, str], tmp_path: Path, length: int) -> None:
    whole = run(exe, home).stdout
    damaged = tmp_path / "shimmy"
    damaged.write_bytes(exe.read_bytes()[:-length] + bytes(length))
    done = run(damaged, home)
    assert is_clear(done, whole), done.stderr


def test_a_whole_file_works(exe: Path, home: dict[str, str], tmp_path: Path) -> None:
    copy = tmp_path / "shimmy"
    copy.write_bytes(exe.read_bytes())
    done = run(copy, home)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("shimmy ")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("_MEI")], os.listdir(tmp_path)
