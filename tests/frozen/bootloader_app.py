"""The smallest program worth freezing, and freezing it with our bootloader. What it prints is where and how it runs."""

import subprocess
import sys
from pathlib import Path

from build.bootloader import OPTION, bootloader, stamp

PROGRAM = """
import os, sys

def where():
    return {"folder": sys._MEIPASS, "pid": os.getpid(), "parent": os.getppid(), "environment": dict(os.environ)}

def respawn(*arguments):
    import subprocess
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()

def main(command="report"):
    if command == "report":
        import ctypes  # Wants libffi.
        print(repr(where() | {"pointer": ctypes.sizeof(ctypes.c_void_p)}))
    elif command == "respawn":
        print(repr(where() | {"child": eval(respawn("report"))}))
    elif command == "wait":
        print(repr(where()), flush=True)
        sys.stdin.read()
        import lzma  # Wants liblzma, and is imported by nothing before.
        print(lzma.decompress(lzma.compress(b"done")).decode())

main(*sys.argv[1:])
"""

SPEC = """
class CachingEXE(EXE):
    def _bootloader_file(self, exe, extension=None):
        return {bootloader!r}

analysis = Analysis(["program.py"], excludes=["_ssl", "_hashlib", "unicodedata", "_decimal"])
scripts = [script for script in analysis.scripts if not script[0].startswith("pyi_rth_")]
entries = [("empty", "empty", "DATA"), ("link.zip", "base_library.zip", "SYMLINK"), {option!r}]
CachingEXE(PYZ(analysis.pure), scripts, analysis.binaries, analysis.datas, entries, name="program", strip=True)
"""


def freeze(folder: Path) -> Path:
    """The stamped executable, made in `folder`."""
    (folder / "program.py").write_text(PROGRAM)
    (folder / "empty").touch()
    (folder / "program.spec").write_text(SPEC.format(bootloader=str(bootloader()), option=OPTION))
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "ERROR", "program.spec"]
    subprocess.run(command, cwd=folder, check=True)
    stamp(folder / "dist" / "program")
    return folder / "dist" / "program"
