"""What is packed at build time comes out whole at run time."""

import importlib.util
import runpy
import sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import pytest

from build import payload
from build.payload import STREAM
from shimmy.worker.llama.payload import INDEX, Payload

CONTENTS = {"libb.so.0": b"b" * 5000, "liba.so": bytes(range(256)) * 40}


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(payload, "EXTENSIONS", [])
    monkeypatch.setattr(payload, "SELDOM_USED", ["sys", "_nowhere"])
    monkeypatch.setattr(payload, "TLS", "_nowhere")
    folder = tmp_path / "lib"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    return folder


def written(libraries: Path, folder: Path) -> tuple[dict[str, Any], bytes]:
    payload.write(libraries, folder)
    return runpy.run_path(str(folder / f"{INDEX}.py")), (folder / STREAM).read_bytes()


@pytest.mark.parametrize("machine", ["x86_64", "AMD64", "aarch64"])
def test_what_is_packed_can_be_unpacked(
    libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    index, stream = written(libraries, tmp_path / "modules")
    carried = Payload(index["ID"], index["FILES"], lambda: stream, lambda: [tmp_path / "root"])
    assert {name: carried.find(name).read_bytes() for name in carried.names()} == CONTENTS


def test_extension_modules_travel_along(libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "EXTENSIONS", ["msgspec._core"])
    index, stream = written(libraries, tmp_path / "modules")
    assert index["STREAM_BYTES"] == len(stream)
    carried = Payload(index["ID"], index["FILES"], lambda: stream, lambda: [tmp_path / "root"])
    file = index["EXTENSIONS"]["msgspec._core"]
    spec = importlib.util.spec_from_file_location("msgspec._core", carried.find(file))
    assert spec and spec.loader
    assert importlib.util.module_from_spec(spec).Struct.__name__ == "Struct"
    installed = payload.extension("msgspec._core")
    assert installed and carried.find(file).stat().st_size <= installed.stat().st_size


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing speaks TLS")
def test_what_speaks_tls_comes_last_with_its_libraries(
    libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "TLS", "_ssl")
    index, _ = written(libraries, tmp_path / "modules")
    module = index["EXTENSIONS"]["_ssl"]
    needed = index["NEEDED"].get("_ssl", [])
    assert list(index["FILES"])[len(CONTENTS) :] == index["SELDOM"] == [module, *needed]
    # Where the interpreter has them as libraries of their own, as Debian's OpenSSL.
    assert [name.partition(".so")[0] for name in needed] in ([], ["libcrypto", "libssl"])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is left as it is")
def test_an_extension_module_without_symbols_is_the_same_module(tmp_path: Path) -> None:
    original = payload.extension("nacl._sodium")
    assert original
    target = tmp_path / original.name
    target.write_bytes(payload.cleaned(original, tmp_path / "stripped"))
    assert target.stat().st_size < original.stat().st_size / 3
    loader = ExtensionFileLoader("_sodium", str(target))
    module = module_from_spec(ModuleSpec("_sodium", loader, origin=str(target)))
    assert module.lib.crypto_aead_chacha20poly1305_ietf_keybytes() == 32


def test_an_extension_module_that_is_missing_is_named(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "EXTENSIONS", ["msgspec._none"])
    with pytest.raises(FileNotFoundError, match=r"msgspec\._none"):
        payload.write(libraries, libraries)


def test_the_name_follows_names_and_contents(libraries: Path, tmp_path: Path) -> None:
    first, _ = written(libraries, tmp_path / "modules")
    assert written(libraries, tmp_path / "modules")[0]["ID"] == first["ID"]
    (libraries / "liba.so").rename(libraries / "libc.so")
    second, _ = written(libraries, tmp_path / "modules")
    (libraries / "libc.so").write_bytes(b"changed")
    third, _ = written(libraries, tmp_path / "modules")
    assert len({first["ID"], second["ID"], third["ID"]}) == 3
