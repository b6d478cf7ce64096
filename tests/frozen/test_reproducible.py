"""The same source gives the same bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

from build.fetch import sha256_of

pytest.importorskip("PyInstaller", reason="this builds it again (make freeze installs PyInstaller)")
pytestmark = [pytest.mark.frozen, pytest.mark.timeout(600)]


def test_a_second_build_is_the_same(exe: Path, tmp_path: Path) -> None:
    from PyInstaller.archive.readers import CArchiveReader

    ours = any(option.startswith("pyi-cache-id") for option in CArchiveReader(str(exe)).options)
    command = [sys.executable, "-m", "build.freeze", "--bootloader", "ours" if ours else "stock", "--dist", tmp_path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert sha256_of(tmp_path / "shimmy") == sha256_of(exe)
    assert (tmp_path / "shimmy.cdx.json").read_text() == exe.with_name("shimmy.cdx.json").read_text()
