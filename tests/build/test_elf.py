"""A library goes into the executable without the build machine's folders."""

import shutil
import subprocess
from pathlib import Path

import pytest

from build import elf

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def library(folder: Path, *linker: str) -> bytes:
    source, target = folder / "lib.c", folder / "lib.so"
    source.write_text("#include <math.h>\ndouble f(double x) { return cos(x); }\n")
    flags = [f"-Wl,{flag}" for flag in linker]
    subprocess.run(["cc", "-shared", "-fPIC", *flags, "-o", target, source, "-lm"], check=True)
    return target.read_bytes()


@pytest.mark.parametrize("kind", ["--enable-new-dtags", "--disable-new-dtags"])
@pytest.mark.parametrize("folders", ["/home/builder/lib", "$ORIGIN:/opt/lib", "relative"])
def test_a_search_path_is_taken_out(tmp_path: Path, kind: str, folders: str) -> None:
    content = library(tmp_path, kind, f"-rpath,{folders}")
    assert elf.search_paths(content) == [folders]
    patched = elf.without_search_path(content)
    assert patched is not None and len(patched) == len(content)
    assert elf.search_paths(patched) == []
    assert elf.without_search_path(patched) is None


def test_a_patched_library_still_works(tmp_path: Path) -> None:
    import ctypes

    patched = elf.without_search_path(library(tmp_path, "-rpath,/nowhere"))
    assert patched is not None
    (tmp_path / "patched.so").write_bytes(patched)
    function = ctypes.CDLL(str(tmp_path / "patched.so")).f
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_double]
    assert function(0.0) == 1.0


def test_its_own_folder_may_stay(tmp_path: Path) -> None:
    content = library(tmp_path, "-rpath,$ORIGIN/../lib:$ORIGIN")
    assert elf.without_search_path(content) is None
    assert elf.search_paths(content) == ["$ORIGIN/../lib:$ORIGIN"]


@pytest.mark.parametrize("content", [b"", b"MZ", b"\x7fELF\x01\x01", b"#!/bin/sh\n"])
def test_other_files_are_left_alone(content: bytes) -> None:
    assert elf.without_search_path(content) is None
