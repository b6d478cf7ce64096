"""What a person without a usable Python is told by build/environment.sh."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "build" / "environment.sh"


def python_that(tmp_path: Path, body: str) -> str:
    fake = tmp_path / "python3"
    fake.write_text(f"#!/bin/sh\n{body}\n")
    fake.chmod(0o755)
    return str(fake)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('test "$1" = --version && echo "Python 3.9.2" && exit 0; exit 1', "3.11 or newer is needed"),
        ('case "$2" in *ensurepip*) exit 1;; esac', "sudo apt install python3-venv"),
    ],
    ids=["too old", "no venv module"],
)
def test_an_unusable_python_is_explained(tmp_path: Path, body: str, message: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": python_that(tmp_path, body)}
    finished = subprocess.run(
        ["sh", str(SCRIPT), "stamp"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    assert finished.returncode == 1
    assert message in finished.stderr
    assert not (tmp_path / "stamp").exists() and not (tmp_path / ".venv").exists()
