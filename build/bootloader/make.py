"""From PyInstaller's source distribution to a bootloader in the build cache. Quick when it is there, else seconds."""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from build import cache
from build.fetch import Artifact, fetch
from build.native import install_tools

# The version that requirements/ has, so that the bootloader and the Python part of PyInstaller fit together.
SOURCE = Artifact(
    project="pyinstaller",
    version="6.22.3",
    file_name="pyinstaller-6.22.3.tar.gz",
    sha256="05eb2f5615503e72939a7224d68b4aff572c6b0438ee4a17d0a4b481f399362d",
)
# Only for the libdeflate 1.26 inside.
LIBDEFLATE = Artifact(
    project="deflate",
    version="0.9.0",
    file_name="deflate-0.9.0.tar.gz",
    sha256="962e0a6f1ea3a94b900a8ea0ce138fa92bfcbafda5b86367104a259ffcd3462b",
)
HERE = Path(__file__).parent
PATCH = HERE / "cache-directory.patch"
ADDED = HERE / "src"
NEEDED = {"patch": "patch", "strip": "binutils"}


def bootloader() -> Path:
    """The compiled bootloader for this machine; its path changes whenever it does. Exits with what is missing."""
    entry = cache.root() / entry_name()
    if not (entry / "run").exists():
        with cache.locked(entry.name):
            if not (entry / "run").exists():
                make(entry)
    return entry / "run"


def entry_name() -> str:
    """The cache entry: the version, and everything else that decides what comes out."""
    recipe = hashlib.sha256()
    for path in [PATCH, *sorted(ADDED.iterdir())]:
        recipe.update(path.read_bytes())
    recipe.update(json.dumps([SOURCE.sha256, LIBDEFLATE.sha256, platform.machine()]).encode())
    return f"bootloader-{SOURCE.version}-{recipe.hexdigest()[:12]}"


def make(entry: Path) -> None:
    require_tools()
    cache.say(f"building the bootloader (PyInstaller {SOURCE.version}); once per machine, about 10 seconds")
    install_tools()
    downloads = cache.root() / "downloads"
    archives = [fetch(SOURCE, downloads), fetch(LIBDEFLATE, downloads)]
    with tempfile.TemporaryDirectory(dir=cache.root()) as scratch:
        source, libdeflate = (unpack(archive, Path(scratch)) for archive in archives)
        add_ours(source, libdeflate)
        made = compile_bootloader(source / "bootloader")
        stage = Path(scratch) / "stage"
        stage.mkdir()
        shutil.copy(made, stage / "run")
        shutil.copy(source / "COPYING.txt", stage / "COPYING.pyinstaller")
        shutil.copy(libdeflate / "libdeflate" / "COPYING", stage / "COPYING.libdeflate")
        shutil.rmtree(entry, ignore_errors=True)
        stage.replace(entry)


def require_tools() -> None:
    if sys.platform != "linux":
        sys.exit("shimmy build: the cache directory is for Linux; elsewhere PyInstaller's own bootloader is used")
    compilers = ("gcc", "clang")
    missing = [] if any(map(shutil.which, compilers)) else ["gcc"]
    missing += [package for tool, package in NEEDED.items() if shutil.which(tool) is None]
    if missing:
        sys.exit(
            f"shimmy build: the bootloader cannot be compiled without {', '.join(missing)}.\n"
            "On Debian or Ubuntu: sudo apt install build-essential"
        )


def unpack(archive: Path, target: Path) -> Path:
    """The folder that the archive consists of. The archive's sha256 has been checked."""
    with tarfile.open(archive) as tar:
        # Pythons without this filter neither need nor know it; those with it warn when none is chosen.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(target)
    return target / archive.name.removesuffix(".tar.gz")


def add_ours(source: Path, libdeflate: Path) -> None:
    """waf compiles every .c file directly in src/; libdeflate is a folder in there, included by one of them."""
    run(["patch", "-p1", "--fuzz=0", "-i", str(PATCH)], source, "patching the bootloader")
    for path in ADDED.iterdir():
        shutil.copy(path, source / "bootloader" / "src" / path.name)
    shutil.copytree(libdeflate / "libdeflate", source / "bootloader" / "src" / "libdeflate")


def compile_bootloader(folder: Path) -> Path:
    """With the zlib that PyInstaller has with it: no header files needed, and one library less to find at run time."""
    environment = {**os.environ, "PYI_STATIC_ZLIB": "1"}
    run([sys.executable, "waf", "configure", "build_release"], folder, "compiling the bootloader", environment)
    return folder / "build" / "release" / "run"


def run(command: list[str], folder: Path, label: str, environment: dict[str, str] | None = None) -> None:
    """Silent unless it fails."""
    finished = subprocess.run(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if finished.returncode:
        sys.exit(f"{finished.stdout.decode(errors='replace')}\nshimmy build: {label} failed (its output is above)")
