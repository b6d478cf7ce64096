"""Getting one exact file from the Python package index, through pip, so that pip's own settings hold."""

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from build.cache import say


@dataclass(frozen=True)
class Artifact:
    """A distribution file: `project` and `version` find it, `sha256` decides whether it is the one meant."""

    project: str
    version: str
    file_name: str
    sha256: str

    @property
    def is_source(self) -> bool:
        return self.file_name.endswith(".tar.gz")


def fetch(artifact: Artifact, folder: Path) -> Path:
    """The artifact's file in `folder`, downloaded unless it is there already. Exits when the sha256 does not match."""
    target = folder / artifact.file_name
    if target.exists() and sha256_of(target) == artifact.sha256:
        return target
    say(f"downloading {artifact.file_name}")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        _pip_download(artifact, Path(scratch))
        (Path(scratch) / artifact.file_name).replace(target)
    return target


def _pip_download(artifact: Artifact, scratch: Path) -> None:
    """pip checks the sha256 itself, before it runs anything of a source distribution to read its metadata."""
    pin = scratch / "pin.txt"
    pin.write_text(f"{artifact.project}=={artifact.version} --hash=sha256:{artifact.sha256}\n")
    source, wheel = ["--no-binary", artifact.project, "--no-build-isolation"], ["--only-binary", artifact.project]
    kind = source if artifact.is_source else wheel
    command = [sys.executable, "-m", "pip", "download", "--require-hashes", "--no-deps", "--no-cache-dir", *kind]
    finished = subprocess.run([*command, "-d", str(scratch), "-r", str(pin)], stdout=sys.stderr)
    if finished.returncode:
        sys.exit(f"shimmy build: pip could not download {artifact.file_name} (its message is above)")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
