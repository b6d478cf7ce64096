"""Backends by paths that are no UTF-8."""

import codecs
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from shimmy.worker.llama import libllama


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The paths that ggml is given; it can load those with an "ö" in the name."""
    paths: list[bytes] = []

    def load(path: bytes) -> int | None:
        paths.append(path)
        return 1 if "ö".encode() in path or b"\xf6" in path else None

    monkeypatch.setattr(libllama, "ggml", lambda: SimpleNamespace(ggml_backend_load=load))
    return paths


def test_a_backend_is_loaded_by_the_bytes_of_its_path(given: list[bytes]) -> None:
    assert libllama.load_backend(os.fsdecode(b"/k\xf6/x.so")) and not libllama.load_backend("/no/x.so")
    assert given == [b"/k\xf6/x.so", b"/no/x.so"]


@pytest.fixture
def code_page() -> Iterator[None]:
    """The encoding that only Windows has."""

    def find(name: str) -> codecs.CodecInfo | None:
        return codecs.lookup("cp1252") if name == "mbcs" else None

    codecs.register(find)
    yield
    codecs.unregister(find)


def test_a_backend_is_loaded_by_a_path_in_the_code_page(
    given: list[bytes], code_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert libllama.load_backend("C:\\Users\\Jörg\\ggml-rpc.dll")
    assert given == [b"C:\\Users\\J\xf6rg\\ggml-rpc.dll"]
