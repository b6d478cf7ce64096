"""Makes dist/shimmy, the one executable, with PyInstaller; says what is in it, and writes checksums and an SBOM.

`python -m build.freeze [--bootloader ours|stock]`. What goes in is decided in spec/recipe.py. The same inputs give the
same bytes.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from build import cache, image, payload, tables
from build.fetch import sha256_of

CHECKOUT = Path(__file__).parent.parent
TOOLS = CHECKOUT / "requirements" / "freeze.txt"
LIBRARIES = CHECKOUT / "shimmy" / "native"
OUTPUT = CHECKOUT / "build" / "out"
DIST = CHECKOUT / "dist"
_SYSTEMS = {"linux": "linux", "darwin": "macos", "win32": "windows"}
_MACHINES = {"amd64": "x86_64", "aarch64": "arm64"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m build.freeze", description=__doc__)
    # Ours is for Linux only.
    choices = ["ours", "stock"] if sys.platform == "linux" else ["stock"]
    parser.add_argument("--bootloader", choices=choices, default=choices[0])
    parser.add_argument("--dist", type=Path, default=DIST)
    given = parser.parse_args()
    if not LIBRARIES.exists():
        sys.exit("shimmy build: llama.cpp is not built; run make setup first")
    install_tools()
    executable = freeze(given.dist, ours=given.bootloader == "ours")
    describe(executable)


def describe(executable: Path) -> None:
    """The report on stdout, and the files beside the executable."""
    from build import report, sbom
    from build.contents import Contents

    contents = Contents(executable)
    print(report.text(contents))
    document = executable.with_name("shimmy.cdx.json")
    document.write_text(sbom.text(contents, source_date_epoch()))
    sums = [f"{sha256_of(path)}  {path.name}\n" for path in (executable, document)]
    executable.with_name("SHA256SUMS").write_text("".join(sums))


def flavour() -> str:
    """The platform, as the files in spec/ are named, e.g. "linux-x86_64"."""
    machine = platform.machine().lower()
    return f"{_SYSTEMS.get(sys.platform, sys.platform)}-{_MACHINES.get(machine, machine)}"


def freeze(dist: Path, *, ours: bool) -> Path:
    """The executable in `dist`, with our bootloader or PyInstaller's. Exits with PyInstaller's words when it fails."""
    spec = CHECKOUT / "spec" / f"{flavour()}.spec"
    if not spec.exists():
        sys.exit(f"shimmy build: there is no {spec.relative_to(CHECKOUT)}")
    with workplace() as work:
        payload.write(LIBRARIES, work / "payload")
        (work / "tables").write_bytes(image.dumped(tables.tables()))
        arguments = bootloader_arguments() if ours else []
        pyinstaller(spec, work, ["--payload", str(work / "payload"), "--tables", str(work / "tables"), *arguments])
        (made,) = (work / "dist").iterdir()
        if ours:
            from build.bootloader import stamp

            stamp(made)
        dist.mkdir(parents=True, exist_ok=True)
        return made.replace(dist / made.name)


def bootloader_arguments() -> list[str]:
    from build.bootloader import OPTION, bootloader

    return ["--bootloader", str(bootloader()), "--option", OPTION[0]]


@contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder; always the same one, because its name may end up in what is made there."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    work = OUTPUT / "freeze"
    with cache.locked("freeze"):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        yield work


def pyinstaller(spec: Path, work: Path, arguments: list[str]) -> None:
    cache.say(f"freezing {spec.stem} (about 30 s)")
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level", "WARN"]
    command += ["--distpath", str(work / "dist"), "--workpath", str(work / "work"), str(spec), "--", *arguments]
    environment = os.environ | {
        # Sets are written in the order of their hashes.
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": source_date_epoch(),
        "PYINSTALLER_CONFIG_DIR": str(work / "config"),
        "PYTHONDONTWRITEBYTECODE": "1",
        # Columns of the source, which the executable has not got, are memory of every process.
        "PYTHONNODEBUGRANGES": "1",
    }
    log = OUTPUT / "freeze.log"
    with log.open("wb") as sink:
        code = subprocess.run(command, cwd=CHECKOUT, env=environment, stdout=sink, stderr=sink).returncode
    if code:
        sys.exit(f"{log.read_text(errors='replace')}\nshimmy build: PyInstaller failed; the above is {log}")


def source_date_epoch() -> str:
    """When the source was last changed, in seconds since 1970: the only time that what we make may contain."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return given
    asked = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=CHECKOUT, capture_output=True, text=True)
    return asked.stdout.strip() if asked.returncode == 0 else "315532800"


def install_tools() -> None:
    """PyInstaller, pinned; only ever needed here."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(TOOLS)]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        sys.exit("shimmy build: pip could not install PyInstaller (its message is above)")


if __name__ == "__main__":
    main()
