"""llama.cpp for this machine: from the pinned source distribution to the libraries that shimmy/native points at.

`python -m build.native` is quick when they are in the cache and takes minutes when not. It may be interrupted and
started again, and two checkouts may run it at once.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from build import cache
from build.compiler import cmake, require_compiler
from build.fetch import Artifact, fetch, sha256_of
from shimmy.hardware.libraries import backend_file, linked_file

# Its vendored llama.cpp is what is compiled; its ctypes layer is what the tests compare our binding with.
SOURCE = Artifact(
    project="llama-cpp-python",
    version="0.3.36",
    file_name="llama_cpp_python-0.3.36.tar.gz",
    sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
)
# Libraries find each other beside themselves, wherever the folder goes; on Windows they do so anyway.
_OWN_FLAGS = {
    "linux": (
        "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        "CMAKE_INSTALL_RPATH=$ORIGIN",
        "CMAKE_SHARED_LINKER_FLAGS=-s",
        "CMAKE_MODULE_LINKER_FLAGS=-s",
    ),
    "darwin": (
        "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        "CMAKE_INSTALL_RPATH=@loader_path",
        # What else would be needed is the build machine's own system. ggml wants Accelerate as it is since 13.3.
        "CMAKE_OSX_DEPLOYMENT_TARGET=13.3",
        # On by default, and a second backend for the same CPU.
        "GGML_BLAS=OFF",
    ),
    # Clang, because Microsoft's compiler cannot make all variants. The C library stays one that all share: ggml opens
    # files that libllama reads.
    "win32": ("CMAKE_TOOLCHAIN_FILE=cmake/x64-windows-llvm.cmake",),
}
FLAGS = (
    "CMAKE_BUILD_TYPE=Release",
    "BUILD_SHARED_LIBS=ON",
    *_OWN_FLAGS.get(sys.platform, ()),
    # One library per CPU generation, chosen at run time: the same folder serves every machine of this architecture.
    "GGML_NATIVE=OFF",
    "GGML_BACKEND_DL=ON",
    "GGML_CPU_ALL_VARIANTS=ON",
    # ggml's own thread pool is as fast as OpenMP's and needs no libgomp.
    "GGML_OPENMP=OFF",
    "GGML_RPC=ON",
    "LLAMA_ALL_WARNINGS=OFF",
    "LLAMA_BUILD_COMMON=OFF",
    "LLAMA_BUILD_TOOLS=OFF",
    "LLAMA_BUILD_SERVER=OFF",
    "LLAMA_BUILD_APP=OFF",
    "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF",
)
# Ours, each with its reason inside. Nothing else of llama.cpp is changed.
PATCHES = sorted((Path(__file__).parent / "patches").glob("*.patch"))
# llama does not link to the backends that are loaded at run time; ggml depends on all of them.
TARGETS = ("llama", "ggml")
# The folders of llama.cpp that these need.
PARTS = ("cmake", "ggml", "include", "licenses", "src", "vendor")
LIBRARIES = tuple(linked_file(target) for target in ("llama", "ggml", "ggml-base"))
# Metal is part of every macOS, so it is the one GPU backend that nobody has to add.
_BACKENDS = ("cpu*", "rpc", "metal") if sys.platform == "darwin" else ("cpu*", "rpc")
BACKENDS = tuple(backend_file(name) for name in _BACKENDS)

CHECKOUT = Path(__file__).parent.parent
LINK = CHECKOUT / "shimmy" / "native"
TOOLS = CHECKOUT / "requirements" / "native.txt"


def main() -> None:
    if sys.platform not in _OWN_FLAGS:
        sys.exit(f"shimmy build: nobody has said yet how llama.cpp is compiled on {sys.platform}")
    entry = cache.root() / entry_name()
    if not is_whole(entry):
        with cache.locked(entry.name):
            if not is_whole(entry):
                make(entry)
    point(LINK, entry / "lib")


def entry_name() -> str:
    """The cache entry: the version, and everything else that decides what comes out."""
    patches = [sha256_of(patch) for patch in PATCHES]
    recipe = json.dumps([SOURCE.sha256, FLAGS, patches, TARGETS, LIBRARIES, BACKENDS, platform.machine()])
    return f"llama.cpp-{SOURCE.version}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def is_whole(entry: Path) -> bool:
    """Whether every file is there with the size that the manifest has for it."""
    try:
        files = json.loads((entry / "MANIFEST.json").read_bytes())["files"]
        return all((entry / "lib" / name).stat().st_size == facts["bytes"] for name, facts in files.items())
    except FileNotFoundError:
        return False


def make(entry: Path) -> None:
    require_compiler()
    cache.say(f"building llama.cpp ({SOURCE.project} {SOURCE.version}); once per machine, about 10 minutes on 2 cores")
    work = cache.root() / "work" / entry.name
    install_tools()
    unpack(fetch(SOURCE, work), work / "source")
    compile_libraries(work)
    stage = collect(work)
    shutil.rmtree(entry, ignore_errors=True)
    stage.replace(entry)
    shutil.rmtree(work)
    cache.say(f"llama.cpp is in {entry}")


def install_tools() -> None:
    """CMake, ninja and what pip needs to look at the source distribution, pinned; only ever needed here."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(TOOLS)]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        sys.exit("shimmy build: pip could not install CMake and ninja (its message is above)")


def unpack(archive: Path, target: Path) -> None:
    """The two parts we use: llama.cpp itself and the ctypes layer. The archive's sha256 has been checked."""
    if target.exists():
        return
    partial = target.with_name("source.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        # Pythons without this filter neither need nor know it; those with it warn when none is chosen.
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(partial, members=[member for member in tar if is_wanted(member)])
    source = partial / SOURCE.file_name.removesuffix(".tar.gz")
    for patch in PATCHES:
        apply(patch, source / "vendor" / "llama.cpp")
    source.replace(target)
    partial.rmdir()


def apply(patch: Path, tree: Path) -> None:
    """git knows how to apply a patch outside of a repository too; every checkout was made with it."""
    # Without this it would take the patch for one of a repository that happens to be above.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(tree.parent)}
    done = subprocess.run(["git", "apply", "-p1", str(patch)], cwd=tree, env=environment, stderr=sys.stderr)
    if done.returncode:
        sys.exit(f"shimmy build: {patch.name} does not apply to {SOURCE.project} {SOURCE.version}")


def is_wanted(member: tarfile.TarInfo) -> bool:
    _, _, path = member.name.partition("/")
    parts = path.split("/")
    if parts[:2] == ["vendor", "llama.cpp"]:
        # Its .git is a link to a repository that is not there, which git would stumble over.
        return parts[2] in PARTS or (len(parts) == 3 and parts[2] != ".git")
    return parts[0] == "llama_cpp" and len(parts) == 2 and path.endswith(".py")


def compile_libraries(work: Path) -> None:
    log, build = work / "build.log", str(work / "build")
    log.unlink(missing_ok=True)
    source = str(work / "source" / "vendor" / "llama.cpp")
    options = [f"-D{flag}" for flag in FLAGS]
    cmake("-S", source, "-B", build, "-G", "Ninja", *options, log=log, label="configuring llama.cpp")
    jobs = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    cmake("--build", build, "--parallel", jobs, "--target", *TARGETS, log=log, label="compiling llama.cpp")


def collect(work: Path) -> Path:
    """A folder with one copy of each library, the ctypes layer, and a manifest of it all."""
    stage = work / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    shutil.copytree(work / "source" / "llama_cpp", stage / "llama_cpp")
    (stage / "lib").mkdir()
    built = work / "build" / "bin"
    for path in [*(built / name for name in LIBRARIES), *(found for glob in BACKENDS for found in built.glob(glob))]:
        shutil.copy(path, stage / "lib" / path.name)
    libraries = sorted((stage / "lib").iterdir())
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in libraries}
    manifest = {"source": f"{SOURCE.project} {SOURCE.version}", "flags": FLAGS, "files": files}
    (stage / "MANIFEST.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return stage


def point(link: Path, target: Path) -> None:
    """Make `link` a symbolic link to `target`, in one step, or a copy where Windows lets not everyone make links."""
    if link.is_symlink() and link.readlink() == target:
        return
    fresh = link.with_name(f".{link.name}.{os.getpid()}")
    try:
        fresh.symlink_to(target, target_is_directory=True)
    except OSError:
        shutil.copytree(target, fresh)
    if sys.platform == "win32":
        # There nothing takes the place of a folder, nor of a link to one.
        link.unlink() if link.is_symlink() else shutil.rmtree(link, ignore_errors=True)
    fresh.replace(link)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("shimmy build: interrupted; the next run continues from here")
