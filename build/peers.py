"""The servers that bench/ measures ours against: llama.cpp's own, and the one of llama-cpp-python, which is FastAPI.

`python -m build.peers` makes sure that both are in the cache, which takes minutes once per machine, and prints their
paths. Both come from the source distribution that build/native.py pins. llama-server is compiled with the flags of our
libraries, without our patches, and without what would only slow its start: its page and TLS. The Python server is
what pip makes of it by default, for this very processor.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from build import cache, native
from build.compiler import cmake, logged, require_compiler
from build.fetch import fetch, sha256_of

_DIFFERENT = {
    "LLAMA_BUILD_COMMON": "ON",
    "LLAMA_BUILD_TOOLS": "ON",
    "LLAMA_BUILD_SERVER": "ON",
    "CMAKE_EXE_LINKER_FLAGS": "-s",
    # Looked for at every start, and of no use to a server of one machine.
    "GGML_RPC": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",
    "LLAMA_OPENSSL": "OFF",
}
_SETTINGS = dict(flag.split("=", 1) for flag in native.FLAGS) | _DIFFERENT
FLAGS = tuple(f"{name}={value}" for name, value in _SETTINGS.items())
REQUIREMENTS = native.CHECKOUT / "requirements" / "peers.txt"
_TOP = native.SOURCE.file_name.removesuffix(".tar.gz")


def main() -> None:
    if sys.platform != "linux":
        sys.exit("shimmy build: only Linux is supported so far")
    peers = (
        (llama_server(), make_llama_server, ["--version"]),
        (python_server(), make_python_server, ["-m", "llama_cpp.server", "--help"]),
    )
    for program, make, arguments in peers:
        entry = program.parents[1]
        with cache.locked(entry.name):
            if not program.exists():
                work = cache.root() / "work" / entry.name
                work.mkdir(parents=True, exist_ok=True)
                stage = make(work)
                require_running([str(stage / program.relative_to(entry)), *arguments])
                stage.replace(entry)
                shutil.rmtree(work)
        print(program, flush=True)


def require_running(command: list[str]) -> None:
    """Exits with its own words when a program does not run; what it was made of is still there then."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}shimmy build: {command[0]} does not run")


def llama_server() -> Path:
    """The program, which need not be there yet; its libraries lie beside it."""
    return _entry("llama-server", [native.SOURCE.sha256, sorted(FLAGS), platform.machine()]) / "bin" / "llama-server"


def python_server() -> Path:
    """The Python that has the module `llama_cpp.server`, which need not be there yet."""
    recipe = [sha256_of(REQUIREMENTS), platform.python_implementation(), platform.python_version(), _instructions()]
    return _entry("llama-cpp-python", recipe) / "bin" / "python"


def _entry(name: str, recipe: Sequence[object]) -> Path:
    key = hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]
    return cache.root() / f"{name}-{native.SOURCE.version}-{key}"


def _instructions() -> str:
    """What this processor can, and so what the compiler may use by default."""
    with open("/proc/cpuinfo") as file:
        return next((line for line in file if line.startswith(("flags", "Features"))), "")


def make_llama_server(work: Path) -> Path:
    """A folder with bin/, which has the program and its libraries."""
    require_compiler()
    cache.say(f"building llama-server ({native.SOURCE.project} {native.SOURCE.version}); once, 10 minutes on 2 cores")
    native.install_tools()
    source = unpack(fetch(native.SOURCE, work), work / "source")
    log, build = work / "build.log", work / "build"
    options = [f"-D{flag}" for flag in FLAGS]
    cmake("-S", str(source), "-B", str(build), "-G", "Ninja", *options, log=log, label="configuring llama-server")
    jobs = str(len(os.sched_getaffinity(0)))
    cmake(
        *("--build", str(build), "--parallel", jobs, "--target", "llama-server"),
        log=log,
        label="compiling llama-server",
    )
    return collect(build / "bin", work / "stage")


def unpack(archive: Path, target: Path) -> Path:
    """llama.cpp as it was published; returns where it is. The archive's sha256 has been checked."""
    tree = f"{_TOP}/vendor/llama.cpp/"
    if not target.exists():
        partial = target.with_name("source.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)
            # Its .git is a link to a repository that is not there, which CMake would follow.
            chosen = [member for member in tar if member.name.startswith(tree) and member.name != f"{tree}.git"]
            tar.extractall(partial, members=chosen)
        partial.replace(target)
    return target / tree


def collect(built: Path, stage: Path) -> Path:
    """The program and its libraries, each once and under the name by which it is looked for."""
    shutil.rmtree(stage, ignore_errors=True)
    target = stage / "bin"
    target.mkdir(parents=True)
    for path in built.iterdir():
        # libllama.so.0 is what is looked for; libllama.so leads to it, and it leads to libllama.so.0.0.1.
        is_only_name = path.name.endswith(".so") and not path.is_symlink()
        if path.name == "llama-server" or is_only_name or path.name.endswith(".so.0"):
            shutil.copy(path, target / path.name)
    return stage


def make_python_server(work: Path) -> Path:
    """A virtual environment; `python -m` works in it wherever it is moved."""
    require_compiler()
    cache.say(f"building {native.SOURCE.project} {native.SOURCE.version} with its server; once, 10 minutes on 2 cores")
    stage, log = work / "stage", work / "build.log"
    shutil.rmtree(stage, ignore_errors=True)
    make_environment(stage)
    pip = (str(stage / "bin" / "python"), "-m", "pip", "--disable-pip-version-check")
    install = (*pip, "install", "--require-hashes")
    # What builds it comes first, so that it is pinned too, and goes at the end, so that nobody counts it as needed.
    logged(*install, "-r", str(native.TOOLS), log=log, label="installing CMake and ninja")
    # Verbose, for ninja's counter.
    chosen = ("-v", "--no-build-isolation", "--only-binary", ":all:", "--no-binary", native.SOURCE.project)
    logged(*install, *chosen, "-r", str(REQUIREMENTS), log=log, label=f"compiling {native.SOURCE.project}")
    tools = ("-r", str(native.TOOLS), "setuptools", "pip")
    logged(*pip, "uninstall", "--yes", *tools, log=log, label="removing CMake and ninja")
    return stage


def make_environment(folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("shimmy build: interrupted; the next run continues from here")
