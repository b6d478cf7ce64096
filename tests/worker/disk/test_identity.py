"""The identity changes with everything that makes states incompatible, and with nothing else."""

import os
from pathlib import Path

import pytest

from shimmy.worker.disk.identity import FileChanged, identity, observe

CONTEXT: dict[str, str | int | float | bool] = {"type_k": 1, "flash_attention": True}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A sparse file: larger than what is read of it."""
    path = tmp_path / "model.gguf"
    with open(path, "wb") as file:
        file.write(b"GGUF" + bytes(1000))
        file.truncate(40 << 20)
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libllama.so"
    path.write_bytes(b"compiled")
    return path


def of(*model: Path, library: Path, context: dict[str, str | int | float | bool] = CONTEXT) -> bytes:
    paths = [str(path) for path in model]
    return identity(observe(paths), [library], context)


def change(path: Path, offset: int, content: bytes) -> None:
    """In place, with the time that the file had."""
    status = path.stat()
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_it_is_the_same_after_a_restart_and_under_another_path(model: Path, library: Path) -> None:
    before = of(model, library=library)
    assert of(model, library=library) == before
    assert of(model.rename(model.with_name("renamed.gguf")), library=library) == before


@pytest.mark.parametrize("offset", [0, 4000, 40 << 19, (40 << 20) - 1])
def test_other_content_of_the_same_size_and_time(model: Path, library: Path, offset: int) -> None:
    before = of(model, library=library)
    # A layer is larger than the space between two samples.
    change(model, max(0, min(offset, (40 << 20) - (1 << 16))), b"x" * (1 << 16))
    assert of(model, library=library) != before


def test_another_time_or_size(model: Path, library: Path) -> None:
    before = of(model, library=library)
    modified_at = model.stat().st_mtime_ns
    os.utime(model, ns=(modified_at, modified_at + 1))
    assert of(model, library=library) != before
    os.utime(model, ns=(modified_at, modified_at))
    assert of(model, library=library) == before
    os.truncate(model, (40 << 20) + 1)
    os.utime(model, ns=(modified_at, modified_at))
    assert of(model, library=library) != before


def test_another_build_or_context(model: Path, library: Path) -> None:
    before = of(model, library=library)
    assert of(model, library=library, context=CONTEXT | {"type_k": 8}) != before
    assert of(model, library=library, context=dict(reversed(CONTEXT.items()))) == before
    library.write_bytes(b"compiled anew")
    assert of(model, library=library) != before


def test_shards_count_in_their_order(model: Path, library: Path, tmp_path: Path) -> None:
    second = tmp_path / "second.gguf"
    second.write_bytes(b"GGUF, the second")
    assert len({of(*files, library=library) for files in [(model,), (model, second), (second, model)]}) == 3


def test_a_small_file(library: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.gguf"
    small.write_bytes(b"GGUF")
    before = of(small, library=library)
    change(small, 3, b"f")
    assert of(small, library=library) != before


def test_a_file_that_was_replaced_during_the_load(model: Path, library: Path, tmp_path: Path) -> None:
    observed = observe([str(model)])
    other = tmp_path / "other.gguf"
    other.write_bytes(model.read_bytes())
    os.utime(other, ns=(model.stat().st_atime_ns, model.stat().st_mtime_ns))
    other.replace(model)
    with pytest.raises(FileChanged):
        identity(observed, [library], CONTEXT)
    model.unlink()
    with pytest.raises(OSError):
        identity(observed, [library], CONTEXT)
