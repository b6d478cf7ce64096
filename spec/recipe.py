"""The one recipe for the executable: what goes in, what stays out, how it is packed. PyInstaller runs it through the
.spec file of a platform, with the arguments that build/freeze.py puts behind "--".
"""

import _imp
import argparse
import marshal
import os
import sys
import zipfile
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Any

from PyInstaller.archive.readers import ZlibArchiveReader
from PyInstaller.building.api import EXE, PYZ
from PyInstaller.building.build_main import Analysis
from PyInstaller.config import CONF
from PyInstaller.utils.hooks import collect_submodules

from build import elf, image, payload
from shimmy.worker.llama.payload import INDEX

CHECKOUT = Path(__file__).resolve().parents[1]
BASE_LIBRARY = "base_library.zip"
# What the interpreter needs before it can run spec/start.py; PyInstaller puts these and others into BASE_LIBRARY.
BASIC = ["encodings", "encodings.aliases", "encodings.utf_8", "encodings.latin_1", "encodings.ascii"]
# In the interpreter, some of them under names of its own.
BUILT_IN = {"importlib._bootstrap", "importlib._bootstrap_external", *_imp._frozen_module_names()}
# How a .pyc file goes on after its magic number when no source is to be compared (PEP 552).
UNCHECKED = b"\1" + bytes(11)
HEADER_BYTES = len(MAGIC_NUMBER) + len(UNCHECKED)

# Found by name at run time, so that nothing in the source leads there.
HIDDEN = [
    # anyio 4.16 makes its table of lazy names from its own source text, which a frozen program has not got; it then
    # imports every submodule at once.
    *collect_submodules("anyio", filter=lambda name: not name.startswith(("anyio.pytest_plugin", "anyio._backends"))),
    "anyio._backends._asyncio",
    # Named in a table (recognition.py).
    *collect_submodules("shimmy.worker.chat.toolcalls"),
]

# Of packages that are left out, what every server imports once it is up.
EXTENSIONS = ["watchfiles._rust_notify"]

# Named somewhere in what we use, and never used by us.
LEFT_OUT = [
    # Hypercorn's other event loops, HTTP/3, reloading, files of settings
    *("uvloop", "trio", "aioquic", "exceptiongroup", "hypercorn.trio", "hypercorn.__main__", "hypercorn.run"),
    *("anyio._backends._trio", "anyio.pytest_plugin", "hypercorn.middleware", "python_multipart", "multipart"),
    *("sniffio", "pytest", "_pytest", "packaging", "markupsafe"),
    # Starlette and anyio offer these; so does msgspec
    *("httpx", "itsdangerous", "yaml", "tomli_w", "attr", "attrs", "pydantic", "numpy", "jinja2"),
    *("starlette.testclient", "starlette.templating", "starlette.schemas", "starlette.middleware.sessions"),
    # Only their extension modules are used (shimmy/core/extension.py)
    *("llguidance", "watchfiles"),
    # What the standard library's own tools ask for
    *("unittest", "doctest", "pdb", "pydoc", "pydoc_data", "test", "xml", "xmlrpc", "tkinter", "curses", "readline"),
    *("lib2to3", "distutils", "setuptools", "pip", "ensurepip", "venv", "sqlite3", "dbm", "ftplib", "nntplib"),
    *("bz2", "_bz2", "_tkinter", "_curses", "asyncio.__main__", "_pyrepl"),
    # Text in East Asian encodings never comes here: everything is UTF-8
    *("_codecs_cn", "_codecs_hk", "_codecs_iso2022", "_codecs_jp", "_codecs_kr", "_codecs_tw", "_multibytecodec"),
    # hashlib has its own functions, and what TLS needs comes with the native libraries (build/payload.py)
    *("_ssl", "_hashlib"),
    # Where Python has the same more slowly, and speed does not matter
    *("_uuid", "_statistics"),
    # Arithmetic in Python for platforms without _decimal; processes that share objects
    *("_pydecimal", "multiprocessing.managers", "multiprocessing.dummy"),
    # What modules like nacl/_sodium are made with; of it they need _cffi_backend (build/payload.py)
    *("cffi", "pycparser"),
    # Only for type checkers
    *("typeshed", "_typeshed", "mypy", "mypy_extensions"),
]

# The interpreter's -OO, and -X utf8: nothing here depends on the locale, and few encodings are carried.
OPTIONS = [("O", None, "OPTION"), ("O", None, "OPTION"), ("X utf8", None, "OPTION")]
# By name at run time; all other encodings are left out.
ENCODINGS = "cp437 cp1252 idna mbcs oem punycode raw_unicode_escape unicode_escape utf_16 utf_16_be utf_16_le utf_8_sig"
# PyInstaller's own unpacks at every start, and inflating costs more than reading: bytes for milliseconds.
UNCOMPRESSED: dict[str, bool] = {}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--payload", type=Path, help="folder with what build/payload.py wrote")
    parser.add_argument("--tables", type=Path, help="marshalled, from build/tables.py")
    parser.add_argument("--bootloader", type=Path, help="instead of PyInstaller's own")
    parser.add_argument("--option", action="append", default=[], help="for that bootloader")
    return parser.parse_args(sys.argv[1:])


def executable(*, strip: bool) -> None:
    """Makes one file named `shimmy`; `strip` where the platform has a strip that keeps libraries intact."""
    given = arguments()
    unpacked_later = payload.extensions()
    analysis = Analysis(
        [str(CHECKOUT / "shimmy" / "__main__.py")],
        pathex=[str(CHECKOUT), str(given.payload)],
        hiddenimports=[*HIDDEN, *(path.stem for path in given.payload.glob("*.py"))],
        excludes=[*LEFT_OUT, *unpacked_later, *([] if payload.has_tls() else ["ssl"])],
        optimize=2,
    )
    # PyInstaller's bootstrap and its run-time hooks (for pkgutil, inspect, multiprocessing) give way to ours.
    scripts = [("start", str(CHECKOUT / "spec" / "start.py"), "PYSOURCE-2"), analysis.scripts[-1]]
    # Extension modules of the East Asian codecs come with the package `encodings`, whatever is excluded.
    binaries = [without_search_path(*entry) for entry in analysis.binaries if not is_left_out(entry[0])]
    binaries += [*cpp_library(), *map(extension_file, EXTENSIONS)]
    modules = {name: code for name, code in python_modules(analysis) if is_wanted(name)}
    basic = write_base_library({name: modules.pop(name) for name in BASIC})
    extensions = extension_modules(binaries) | dict.fromkeys(unpacked_later, "")
    tables, needed = marshal.loads(given.tables.read_bytes())
    stream = (given.payload / payload.STREAM).read_bytes()
    at_start, rest = image.made(modules, extensions, tables, {*needed, INDEX}, rest_start=len(stream))
    Executable(
        # Where PyInstaller has its archive of modules: never unpacked, and the bootloader tells where it is.
        [("PYZ", written("archive", stream + rest), "PYZ")],
        scripts,
        binaries,
        [(BASE_LIBRARY, str(basic), "DATA"), (image.NAME, written(image.NAME, at_start), "DATA")],
        OPTIONS + [(option, None, "OPTION") for option in given.option],
        name="shimmy",
        strip=strip,
        upx=False,
        console=True,
        bootloader=given.bootloader,
        cdict=None if given.bootloader else UNCOMPRESSED,
    )


def python_modules(analysis: Analysis) -> Iterator[tuple[str, tuple[int, bytes]]]:
    """Every module by name: its kind, and its code as PyInstaller writes it, with the build machine's paths gone."""
    kinds = [image.MODULE, image.PACKAGE, None, image.NAMESPACE]
    archive = PYZ(analysis.pure)
    reader = ZlibArchiveReader(archive.name)
    for name, (kind, _, _) in reader.toc.items():
        yield name, (kinds[kind], reader.extract(name, raw=True) or b"")
    # What PyInstaller's bootstrap uses of the standard library is left out of its archive.
    for name, path, kind in archive.dependencies:
        if kind == "PYMODULE" and not name.startswith("pyimod"):
            yield name, (image.MODULE, Path(path).read_bytes()[HEADER_BYTES:])
    (base,) = (source for name, source, _ in analysis.datas if name == BASE_LIBRARY)
    with zipfile.ZipFile(base) as basic:
        for path in basic.namelist():
            folder, _, file = path.removesuffix(".pyc").rpartition("/")
            package = file == "__init__"
            name = folder if package else f"{folder}/{file}".lstrip("/")
            yield name.replace("/", "."), (image.PACKAGE if package else image.MODULE, basic.read(path)[HEADER_BYTES:])


def is_wanted(name: str) -> bool:
    package, _, module = name.rpartition(".")
    return name not in BUILT_IN and (package != "encodings" or name in BASIC or module in ENCODINGS.split())


def extension_modules(binaries: list[tuple[str, str, str]]) -> dict[str, str]:
    """The path of each inside the program's folder, with slashes."""
    found = {}
    for path, _, kind in binaries:
        if kind == "EXTENSION":
            folder, _, file = path.replace(os.sep, "/").rpartition("/")
            package = "" if folder.endswith("lib-dynload") else folder.replace("/", ".")
            found[f"{package}.{file.split('.')[0]}".lstrip(".")] = f"{folder}/{file}".lstrip("/")
    return found


def extension_file(module: str) -> tuple[str, str, str]:
    path = payload.extension(module)
    if path is None:
        raise FileNotFoundError(f"the extension module {module} is not installed")
    return without_search_path(f"{module.replace('.', os.sep)}{''.join(path.suffixes)}", str(path), "EXTENSION")


def without_search_path(name: str, source: str, kind: str) -> tuple[str, str, str]:
    """The library without the build machine's folders in it, in which the system would look for other libraries: on
    another machine they may be anybody's. Its own folder may stay."""
    # The source of a link is what it leads to; macOS has one for the interpreter.
    patched = None if kind == "SYMLINK" else elf.without_search_path(Path(source).read_bytes())
    if patched is None:
        return name, source, kind
    target = work_file("libraries") / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(patched)
    target.chmod(0o755)
    return name, str(target), kind


def cpp_library() -> list[tuple[str, str, str]]:
    """What llama.cpp needs on Windows and PyInstaller cannot see, as it does not look into the payload."""
    if sys.platform != "win32":
        return []
    name = "msvcp140.dll"
    return [(name, os.path.join(os.environ["SYSTEMROOT"], "System32", name), "BINARY")]


def write_base_library(modules: dict[str, tuple[int, bytes]]) -> Path:
    """For the interpreter's own importer: a .zip of .pyc files, not compressed, each with the date of 1980."""
    target = work_file(BASE_LIBRARY)
    with zipfile.ZipFile(target, "w") as archive:
        for name, (kind, code) in sorted(modules.items()):
            path = name.replace(".", "/") + ("/__init__.pyc" if kind == image.PACKAGE else ".pyc")
            archive.writestr(zipfile.ZipInfo(path), MAGIC_NUMBER + UNCHECKED + code)
    return target


def written(name: str, content: bytes) -> str:
    target = work_file(name)
    target.write_bytes(content)
    return str(target)


def work_file(name: str) -> Path:
    return Path(CONF["workpath"]) / name


def is_left_out(name: str) -> bool:
    file = Path(name).name
    # Windows' C library, which every Windows has that llama.cpp runs on; PyInstaller thinks of older ones.
    return file.split(".")[0] in LEFT_OUT or file.lower().startswith(("api-ms-win-", "ucrtbase"))


class Executable(EXE):  # type: ignore[misc]
    """PyInstaller's, with a bootloader of our choice."""

    def __init__(self, *parts: Any, bootloader: Path | None, **settings: Any) -> None:
        self._bootloader = bootloader
        super().__init__(*parts, **settings)

    def _bootloader_file(self, exe: str, extension: str | None = None) -> str:
        if self._bootloader is None:
            return str(super()._bootloader_file(exe, extension))
        return os.fspath(self._bootloader)
