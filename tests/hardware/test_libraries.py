"""What libraries are called on the systems that there is a recipe for: what CMake calls them (build/native.py)."""

import sys

import pytest

from shimmy.hardware.libraries import backend_file, is_library, linked_file

NAMES = [
    ("linux", "libggml-base.so.0", "libggml-rpc.so"),
    ("darwin", "libggml-base.0.dylib", "libggml-rpc.so"),
    ("win32", "ggml-base.dll", "ggml-rpc.dll"),
]


@pytest.mark.parametrize(("system", "linked", "backend"), NAMES)
def test_names(system: str, linked: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert (linked_file("ggml-base"), backend_file("rpc")) == (linked, backend)
    files = ["ggml-rpc.txt", linked, backend, "libcudart.so.12", "x.dylib", "y.dll"]
    found = {"linux": ["libcudart.so.12"], "darwin": ["libcudart.so.12", "x.dylib"], "win32": ["y.dll"]}
    assert [file for file in files if is_library(file)] == [linked, backend, *found[system]]
