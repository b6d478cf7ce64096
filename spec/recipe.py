"""The one recipe for the executable: what goes in, what stays out, how it is packed. PyInstaller runs it through the
.spec file of a platform, with the arguments that build/freeze.py puts behind "--".
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from PyInstaller.building.api import EXE, PYZ
from PyInstaller.building.build_main import Analysis
from PyInstaller.utils.hooks import collect_submodules

CHECKOUT = Path(__file__).resolve().parents[1]

# Found by name at run time, so that nothing in the source leads there.
HIDDEN = [
    # anyio 4.16 makes its table of lazy names from its own source text, which a frozen program has not got; it then
    # imports every submodule at once.
    *collect_submodules("anyio", filter=lambda name: not name.startswith(("anyio.pytest_plugin", "anyio._backends"))),
    "anyio._backends._asyncio",
]

# Named somewhere in what we use, and never used by us.
LEFT_OUT = [
    # Hypercorn's other event loops, HTTP/3, reloading, files of settings
    *("uvloop", "trio", "aioquic", "exceptiongroup", "hypercorn.trio", "hypercorn.__main__", "hypercorn.run"),
    *("anyio._backends._trio", "anyio.pytest_plugin", "hypercorn.middleware", "python_multipart", "multipart"),
    *("sniffio", "pytest", "_pytest", "packaging", "markupsafe"),
    # Starlette and anyio offer these; so does msgspec
    *("httpx", "itsdangerous", "yaml", "tomli_w", "attr", "attrs", "pydantic", "numpy", "jinja2"),
    *("starlette.testclient", "starlette.templating", "starlette.schemas", "starlette.middleware.sessions"),
    # What the standard library's own tools ask for
    *("unittest", "doctest", "pdb", "pydoc", "pydoc_data", "test", "xml", "xmlrpc", "tkinter", "curses", "readline"),
    *("lib2to3", "distutils", "setuptools", "pip", "ensurepip", "venv", "sqlite3", "dbm", "ftplib", "nntplib"),
    *("bz2", "_bz2", "_tkinter", "_curses", "asyncio.__main__", "_pyrepl"),
    # Text in East Asian encodings never comes here: everything is UTF-8
    *("_codecs_cn", "_codecs_hk", "_codecs_iso2022", "_codecs_jp", "_codecs_kr", "_codecs_tw", "_multibytecodec"),
    # Only for type checkers
    *("typeshed", "_typeshed", "mypy", "mypy_extensions"),
]

# The interpreter's -OO.
OPTIONS = [("O", None, "OPTION"), ("O", None, "OPTION")]
# PyInstaller's own unpacks at every start, and inflating costs more than reading: bytes for milliseconds.
UNCOMPRESSED: dict[str, bool] = {}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--payload", type=Path, help="folder with the modules that build/payload.py wrote")
    parser.add_argument("--bootloader", type=Path, help="instead of PyInstaller's own")
    parser.add_argument("--option", action="append", default=[], help="for that bootloader")
    return parser.parse_args(sys.argv[1:])


def executable(*, strip: bool) -> None:
    """Makes one file named `shimmy`; `strip` where the platform has a strip that keeps libraries intact."""
    given = arguments()
    analysis = Analysis(
        [str(CHECKOUT / "shimmy" / "__main__.py")],
        pathex=[str(CHECKOUT), str(given.payload)],
        hiddenimports=[*HIDDEN, *(path.stem for path in given.payload.glob("*.py"))],
        excludes=LEFT_OUT,
        optimize=2,
    )
    # The run-time hooks prepare for pkgutil, inspect on frozen source, multiprocessing: none of it is used.
    scripts = [entry for entry in analysis.scripts if not entry[0].startswith("pyi_rth_")]
    # Extension modules of the East Asian codecs come with the package `encodings`, whatever is excluded.
    binaries = [entry for entry in analysis.binaries if not is_left_out(entry[0])]
    datas = [entry for entry in analysis.datas if ".dist-info" not in entry[0]]
    Executable(
        PYZ(analysis.pure),
        scripts,
        binaries,
        datas,
        OPTIONS + [(option, None, "OPTION") for option in given.option],
        name="shimmy",
        strip=strip,
        upx=False,
        console=True,
        bootloader=given.bootloader,
        cdict=None if given.bootloader else UNCOMPRESSED,
    )


def is_left_out(name: str) -> bool:
    return Path(name).name.split(".")[0] in LEFT_OUT


class Executable(EXE):  # type: ignore[misc]
    """PyInstaller's, with a bootloader of our choice."""

    def __init__(self, *parts: Any, bootloader: Path | None, **settings: Any) -> None:
        self._bootloader = bootloader
        super().__init__(*parts, **settings)

    def _bootloader_file(self, exe: str, extension: str | None = None) -> str:
        if self._bootloader is None:
            return str(super()._bootloader_file(exe, extension))
        return os.fspath(self._bootloader)
