"""What is inside a frozen executable, read from the executable itself: for the report, the SBOM and the tests."""

import io
import lzma
import marshal
import os
import sys
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from build import image
from shimmy.worker.llama.payload import INDEX

INTERPRETER, STANDARD_LIBRARY, SHARED = "CPython", "standard library", "shared libraries"
BOOT, NATIVE = "PyInstaller", "llama.cpp"
# All others are packages from the index, and shimmy.
NO_PACKAGES = {INTERPRETER, STANDARD_LIBRARY, SHARED, BOOT, NATIVE}
BASE_LIBRARY = "base_library.zip"
# What PyInstaller calls the one file that is not unpacked at a start: the xz stream that build/payload.py wrote, and
# the modules that a start does not need.
ARCHIVE = "PYZ.pyz"


@dataclass(frozen=True)
class Item:
    """`name` as it is found at run time; `group` is a package, or one of the constants above. Sizes in bytes."""

    name: str
    group: str
    raw: int
    stored: int


class Contents:
    """`items` is everything, biggest first; what they do not add up to is the bootloader with the tables."""

    def __init__(self, executable: Path) -> None:
        from PyInstaller.archive.readers import CArchiveReader

        self.executable = executable
        self._archive: Any = CArchiveReader(os.fspath(executable))
        self._image = image.Image(self._archive.extract(image.NAME), self._archive.extract(ARCHIVE))
        found = [*self._files(), *self._python_modules()]
        self.items = sorted(found, key=lambda item: (-item.stored, item.name))

    @property
    def module_names(self) -> set[str]:
        """Every Python module, those in C and those of the base library included."""
        with zipfile.ZipFile(io.BytesIO(self._archive.extract(BASE_LIBRARY))) as base:
            return {*self._image.names, *map(_dotted, base.namelist())}

    def code(self) -> Iterator[tuple[str, types.CodeType]]:
        """Of every module in Python, with its name."""
        for name in sorted(self._image.names):
            if raw := self._image.code(name):
                yield name, marshal.loads(raw)

    @property
    def carried_modules(self) -> set[str]:
        """The modules in C that are not in the archive but among the native libraries."""
        return set(self._native().EXTENSIONS)

    @property
    def carried_files(self) -> list[str]:
        """The names of what is in the stream."""
        return list(self._native().FILES)

    def shared_libraries(self) -> Iterator[tuple[str, bytes]]:
        """Each ELF file: the executable without its archive counts, and what the payload unpacks to."""
        yield self.executable.name, self.executable.read_bytes()
        for name, (*_, kind) in self._archive.toc.items():
            if kind == "b":
                yield name, self._archive.extract(name)
        raw = lzma.decompress(self._archive.extract(ARCHIVE)[: self._native().STREAM_BYTES])
        for name, (size, _) in self._native().FILES.items():
            content, raw = raw[:size], raw[size:]
            yield name, content

    def _native(self) -> Any:
        """The module that says what is in the stream."""
        module = types.ModuleType(INDEX)
        exec(marshal.loads(self._image.code(INDEX)), module.__dict__)
        return module

    def _files(self) -> Iterator[Item]:
        for name, (_, stored, raw, _, kind) in self._archive.toc.items():
            if name == ARCHIVE:
                native = self._native()
                yield Item("one xz stream", NATIVE, sum(size for size, _ in native.FILES.values()), native.STREAM_BYTES)
            elif name != image.NAME:
                yield Item(name, _group_of_file(name, kind), raw, stored)

    def _python_modules(self) -> Iterator[Item]:
        """Those that a start needs are compressed together: each takes its share by what it takes in the image."""
        _, stored, whole, _, _ = self._archive.toc[image.NAME]
        share = stored / whole
        index = whole
        for name in self._image.names:
            size, raw = self._image.size(name), len(self._image.code(name))
            if self._image.is_rest(name):
                yield Item(name, _group_of_module(name), raw, size)
                continue
            index -= size
            if raw:
                yield Item(name, _group_of_module(name), raw, round(size * share))
        yield Item(f"{image.NAME}, tables", BOOT, index, round(index * share))


def _dotted(path: str) -> str:
    """The module that a file holds: "msgspec/_core.cpython-311-x86_64-linux-gnu.so" is msgspec._core."""
    folder, _, file = path.rpartition("/")
    package = "" if folder.endswith("lib-dynload") else folder.replace("/", ".")
    name = file.split(".")[0]
    return package if name == "__init__" else f"{package}.{name}".strip(".")


def _group_of_file(name: str, kind: str) -> str:
    if kind == "s":
        return BOOT
    folder, _, file = name.replace("\\", "/").partition("/")
    # Linux' file, Windows' two, macOS' framework and the link to it.
    if name.startswith(("libpython", "python3", "Python")) and "lib-dynload" not in name:
        return INTERPRETER
    # On Windows they lie beside the libraries.
    if "lib-dynload" in name or name == BASE_LIBRARY or (not file and name.endswith(".pyd")):
        return STANDARD_LIBRARY
    return folder if file else SHARED


def _group_of_module(name: str) -> str:
    top = name.split(".")[0]
    if top == INDEX:
        return NATIVE
    return STANDARD_LIBRARY if top in sys.stdlib_module_names else top
