"""Chat templates of real models, which llama.cpp carries, for the tests.

`python -m build.templates` takes them out of the source distribution that build/native.py pins, once per machine, and
prints the folder that they are in.
"""

import os
import shutil
import sys
import tarfile
from pathlib import Path

from build import cache, native
from build.fetch import fetch

_WHERE = f"{native.SOURCE.file_name.removesuffix('.tar.gz')}/vendor/llama.cpp/models/templates/"


def main() -> None:
    target = folder()
    with cache.locked(target.name):
        if not target.is_dir():
            work = cache.root() / "work" / target.name
            unpack(fetch(native.SOURCE, work), target)
            shutil.rmtree(work)
    print(target)


def folder() -> Path:
    """Where they are, once they are there."""
    return cache.root() / f"templates-{native.SOURCE.version}-{native.SOURCE.sha256[:12]}"


def unpack(archive: Path, target: Path) -> None:
    """The templates alone. The archive's sha256 has been checked."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix(_WHERE)
            if member.isfile() and name != member.name and name == os.path.basename(name) and name.endswith(".jinja"):
                file = tar.extractfile(member)
                assert file is not None
                (partial / name).write_bytes(file.read())
    partial.replace(target)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("shimmy build: interrupted; the next run begins anew")
