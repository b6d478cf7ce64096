"""The recipe without the compiler: a fake CMake that leaves the files a real build leaves."""

import importlib.util
import io
import json
import os
import re
import sys
import sysconfig
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from build import compiler, native

BUILT = ["libggml-cpu-x64.so", "libggml-cpu-zen4.so", "libggml-rpc.so"]


def write_source(path: Path) -> None:
    top = native.SOURCE.file_name.removesuffix(".tar.gz")
    wanted = ["llama_cpp/llama_cpp.py", "vendor/llama.cpp/CMakeLists.txt", "vendor/llama.cpp/src/llama.cpp"]
    unwanted = ["llama_cpp/server/app.py", "vendor/llama.cpp/tools/x.cpp", "docs/index.md", "vendor/other/x.c"]
    with tarfile.open(path, "w:gz") as tar:
        for name in [*wanted, *unwanted]:
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = 4
            tar.addfile(member, io.BytesIO(b"text"))


class FakeCompiler:
    """Stands for CMake; `fails` makes the next build end like an interrupted one."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, ...]] = []
        self.fails = False

    def __call__(self, *arguments: str, log: Path, label: str) -> None:
        self.runs.append(arguments)
        if arguments[0] != "--build":
            return
        if self.fails:
            raise KeyboardInterrupt
        built = Path(arguments[1], "bin")
        built.mkdir(parents=True, exist_ok=True)
        for name in native.LIBRARIES:
            (built / f"{name}.1.2").write_bytes(name.encode())
            (built / name).symlink_to(f"{name}.1.2")
        for name in BUILT:
            (built / name).write_bytes(name.encode())
        (built / "libllama.so").symlink_to("libllama.so.0")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    def fetch(source: object, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        write_source(folder / "source.tar.gz")
        return folder / "source.tar.gz"

    fake = FakeCompiler()
    monkeypatch.setenv("SHIMMY_BUILD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "LINK", tmp_path / "native")
    monkeypatch.setattr(native, "fetch", fetch)
    monkeypatch.setattr(native, "PATCHES", [])
    monkeypatch.setattr(native, "install_tools", lambda: None)
    monkeypatch.setattr(native, "require_compiler", lambda: None)
    monkeypatch.setattr(native, "cmake", fake)
    return fake


def test_the_link_leads_to_each_library_once_under_the_name_it_is_loaded_by(fake: FakeCompiler, tmp_path: Path) -> None:
    native.main()
    link = tmp_path / "native"
    assert link.is_symlink()
    assert sorted(path.name for path in link.iterdir()) == sorted([*native.LIBRARIES, *BUILT])
    assert all(path.is_file() and not path.is_symlink() for path in link.iterdir())
    layer = link.resolve().parent / "llama_cpp"
    assert [path.name for path in layer.iterdir()] == ["llama_cpp.py"]


def test_flags_and_targets_reach_cmake(fake: FakeCompiler) -> None:
    native.main()
    configure, build = fake.runs
    assert {f"-D{flag}" for flag in native.FLAGS} <= set(configure)
    assert build[-len(native.TARGETS) :] == native.TARGETS


def test_what_is_there_is_not_built_again(fake: FakeCompiler, tmp_path: Path) -> None:
    native.main()
    native.main()
    assert len(fake.runs) == 2
    assert [path.name for path in (tmp_path / "cache" / "work").iterdir()] == []


def test_an_interrupted_build_leaves_no_entry_and_goes_on(fake: FakeCompiler, tmp_path: Path) -> None:
    fake.fails = True
    with pytest.raises(KeyboardInterrupt):
        native.main()
    assert not (tmp_path / "native").exists()
    (work,) = (tmp_path / "cache" / "work").iterdir()
    kept = work / "source" / "vendor" / "llama.cpp" / "CMakeLists.txt"
    kept.write_text("still here")
    fake.fails = False
    native.main()
    assert fake.runs[-2][1] == str(kept.parent)
    assert (tmp_path / "native" / "libllama.so.0").is_file()


@pytest.mark.parametrize("damage", ["missing", "short", "no manifest"])
def test_a_damaged_entry_is_built_again(fake: FakeCompiler, tmp_path: Path, damage: str) -> None:
    native.main()
    library = tmp_path / "native" / "libllama.so.0"
    if damage == "missing":
        library.unlink()
    elif damage == "short":
        library.write_bytes(b"")
    else:
        (tmp_path / "native" / ".." / "MANIFEST.json").resolve().unlink()
    native.main()
    assert len(fake.runs) == 4
    assert library.read_bytes() == b"libllama.so.0"


def test_other_flags_are_another_entry(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    name = native.entry_name()
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "GGML_VULKAN=ON"))
    assert native.entry_name() != name
    assert native.entry_name().startswith(f"llama.cpp-{native.SOURCE.version}-")


def test_the_manifest_says_what_was_built(fake: FakeCompiler, tmp_path: Path) -> None:
    native.main()
    manifest = json.loads((tmp_path / "native" / ".." / "MANIFEST.json").resolve().read_text())
    assert manifest["source"] == "llama-cpp-python 0.3.36"
    assert tuple(manifest["flags"]) == native.FLAGS
    assert set(manifest["files"]) == {*native.LIBRARIES, *BUILT}


def test_an_older_link_is_replaced(fake: FakeCompiler, tmp_path: Path) -> None:
    (tmp_path / "native").symlink_to(tmp_path / "gone")
    native.main()
    assert (tmp_path / "native" / "libllama.so.0").is_file()


def test_only_what_is_compiled_or_compared_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PATCHES", [])
    write_source(tmp_path / "source.tar.gz")
    native.unpack(tmp_path / "source.tar.gz", tmp_path / "source")
    files = {str(path.relative_to(tmp_path / "source")) for path in (tmp_path / "source").rglob("*") if path.is_file()}
    assert files == {
        "llama_cpp/llama_cpp.py",
        "vendor/llama.cpp/CMakeLists.txt",
        "vendor/llama.cpp/src/llama.cpp",
    }


PATCH = """Why it is there.

--- a/src/llama.cpp
+++ b/src/llama.cpp
@@ -1 +1 @@
-{old}
\\ No newline at end of file
+ours
\\ No newline at end of file
"""


def write_patch(folder: Path, old: str) -> Path:
    patch = folder / "ours.patch"
    patch.write_text(PATCH.format(old=old))
    return patch


def test_our_patches_are_applied_once(fake: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PATCHES", [write_patch(tmp_path, old="text")])
    fake.fails = True
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            native.main()
    (source,) = (tmp_path / "cache" / "work").glob("*/source/vendor/llama.cpp/src/llama.cpp")
    assert source.read_text() == "ours"


def test_a_patch_that_does_not_fit_ends_the_build(
    fake: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "PATCHES", [write_patch(tmp_path, old="another text")])
    with pytest.raises(SystemExit, match="ours.patch does not apply"):
        native.main()
    assert fake.runs == []


def test_another_patch_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "PATCHES", [write_patch(tmp_path, old="text")])
    name = native.entry_name()
    write_patch(tmp_path, old="another text")
    assert native.entry_name() != name


def test_a_missing_compiler_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-c++ -O2")
    with pytest.raises(SystemExit, match=r"'no-such-c\+\+' is not on PATH[\s\S]*apt install build-essential"):
        compiler.require_compiler()


@pytest.mark.parametrize(
    ("system", "name", "remedy"), [("darwin", "c++", "xcode-select"), ("win32", "clang++", "LLVM")]
)
def test_each_system_has_its_compiler(system: str, name: str, remedy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "platform", system)
    with pytest.raises(SystemExit, match=rf"'{re.escape(name)}' is not on PATH[\s\S]*{remedy}"):
        compiler.require_compiler()


def recipe_of(system: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """build/native.py as another system imports it."""
    monkeypatch.setattr(sys, "platform", system)
    spec = importlib.util.spec_from_file_location(f"native_{system}", native.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


NAMES = {
    "linux": ["libllama.so.0", "libggml.so.0", "libggml-base.so.0", "libggml-cpu*.so", "libggml-rpc.so"],
    "darwin": [
        *("libllama.0.dylib", "libggml.0.dylib", "libggml-base.0.dylib"),
        *("libggml-cpu*.so", "libggml-rpc.so", "libggml-metal.so"),
    ],
    "win32": ["llama.dll", "ggml.dll", "ggml-base.dll", "ggml-cpu*.dll", "ggml-rpc.dll"],
}
OWN_FLAGS = {"linux": "=$ORIGIN", "darwin": "=@loader_path", "win32": "CMAKE_TOOLCHAIN_FILE="}


@pytest.mark.parametrize("system", NAMES)
def test_each_system_has_its_names_and_its_flags(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = recipe_of(system, monkeypatch)
    assert [*recipe.LIBRARIES, *recipe.BACKENDS] == NAMES[system]
    found = [name for name, flag in OWN_FLAGS.items() if any(flag in given for given in recipe.FLAGS)]
    assert found == [system]
    # Those for all systems come once, and around them.
    assert recipe.FLAGS[0] == "CMAKE_BUILD_TYPE=Release" and "GGML_RPC=ON" in recipe.FLAGS
    assert len(set(recipe.FLAGS)) == len(recipe.FLAGS)


def test_what_linux_compiles_is_what_was_compiled_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: it decides the name of the cache entry, and a new one costs ten minutes."""
    recipe = recipe_of("linux", monkeypatch)
    assert recipe.FLAGS[2:6] == (
        "CMAKE_BUILD_WITH_INSTALL_RPATH=ON",
        "CMAKE_INSTALL_RPATH=$ORIGIN",
        "CMAKE_SHARED_LINKER_FLAGS=-s",
        "CMAKE_MODULE_LINKER_FLAGS=-s",
    )


def test_a_system_without_a_recipe_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match="freebsd14"):
        recipe_of("freebsd14", monkeypatch).main()


def test_where_affinity_is_unknown_all_processors_compile(fake: FakeCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    native.main()
    assert fake.runs[-1][2:4] == ("--parallel", "3")


def test_where_links_are_forbidden_there_is_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(link: Path, target: Path, target_is_directory: bool = False) -> None:
        raise OSError(1314, "a required privilege is not held by the client")

    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "llama.dll").write_text(name)
    link = tmp_path / "native"
    link.symlink_to(tmp_path / "old")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(Path, "symlink_to", refuse)
    for target in ("old", "new"):
        native.point(link, tmp_path / target)
        assert link.is_dir()
        assert [path.read_text() for path in link.iterdir()] == [target]
    assert (tmp_path / "old" / "llama.dll").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["native", "new", "old"]


@pytest.fixture
def fake_cmake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `cmake` where pip puts programs: it says what the script in its first argument says."""
    monkeypatch.setattr(sysconfig, "get_path", {"scripts": str(tmp_path)}.__getitem__)
    script = tmp_path / "cmake"
    script.write_text('#!/bin/sh\nexec sh -c "$1"\n')
    script.chmod(0o755)
    return tmp_path / "build.log"


def test_output_goes_to_the_log_and_progress_to_the_person(
    fake_cmake: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiler, "_SECONDS_BETWEEN_LINES", 0.0)
    compiler.cmake("echo '[3/7] Building x.o'; echo 'a warning' >&2", log=fake_cmake, label="compiling")
    assert fake_cmake.read_text() == "[3/7] Building x.o\na warning\n"
    output = capsys.readouterr()
    assert output.out == ""
    assert "compiling: 3 of 7 steps, 0 s" in output.err


def test_a_failure_shows_the_end_of_the_log(fake_cmake: Path) -> None:
    script = "for i in $(seq 100); do echo line $i; done; echo 'x.cpp:1: error: boom'; exit 2"
    with pytest.raises(SystemExit) as caught:
        compiler.cmake(script, log=fake_cmake, label="compiling")
    lines = str(caught.value).splitlines()
    assert lines[-2:] == ["x.cpp:1: error: boom", f"shimmy build: compiling failed; the whole log is {fake_cmake}"]
    assert "line 1" not in lines and len(fake_cmake.read_text().splitlines()) == 101
