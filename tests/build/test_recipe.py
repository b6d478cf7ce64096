"""Parts of spec/recipe.py that differ from system to system. It is imported without PyInstaller, which only
`make freeze` installs; that the whole works is seen from the executable (tests/frozen)."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RECIPE = Path(__file__).parents[2] / "spec" / "recipe.py"
# What of PyInstaller is imported, module by module.
NEEDED: dict[str, dict[str, Any]] = {
    "PyInstaller": {},
    "PyInstaller.archive": {},
    "PyInstaller.archive.readers": {"ZlibArchiveReader": object},
    "PyInstaller.building": {},
    "PyInstaller.building.api": {"EXE": object, "PYZ": object},
    "PyInstaller.building.build_main": {"Analysis": object},
    "PyInstaller.config": {"CONF": {}},
    "PyInstaller.utils": {},
    "PyInstaller.utils.hooks": {"collect_submodules": lambda name, filter=None: []},
}


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for name, content in NEEDED.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("recipe", RECIPE)
    assert spec is not None and spec.loader is not None
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    recipe.CONF["workpath"] = str(tmp_path)
    return recipe


def test_a_link_is_no_file_to_look_into(recipe: ModuleType) -> None:
    """macOS has one beside the interpreter's framework."""
    link = ("Python", "Python.framework/Versions/3.11/Python", "SYMLINK")
    assert recipe.without_search_path(*link) == link


def test_a_library_of_another_format_is_left_alone(recipe: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "_socket.pyd").write_bytes(b"MZ\x90\x00")
    library = ("_socket.pyd", str(tmp_path / "_socket.pyd"), "EXTENSION")
    assert recipe.without_search_path(*library) == library


@pytest.mark.parametrize(
    ("separator", "path", "name", "place"),
    [
        ("/", "python3.11/lib-dynload/_socket.cpython-311-darwin.so", "_socket", None),
        ("/", "msgspec/_core.cpython-311-x86_64-linux-gnu.so", "msgspec._core", None),
        ("\\", "_socket.pyd", "_socket", None),
        ("\\", "msgspec\\_core.cp311-win_amd64.pyd", "msgspec._core", "msgspec/_core.cp311-win_amd64.pyd"),
    ],
)
def test_extension_modules_are_named_by_their_paths(
    separator: str, path: str, name: str, place: str | None, recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe.os, "sep", separator)
    binaries = [(path, "somewhere", "EXTENSION"), ("python311.dll", "somewhere", "BINARY")]
    assert recipe.extension_modules(binaries) == {name: place or path}


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("python3.11/lib-dynload/_ssl.cpython-311-x86_64-linux-gnu.so", True),
        ("_ssl.pyd", True),
        ("api-ms-win-crt-heap-l1-1-0.dll", True),
        ("ucrtbase.dll", True),
        ("VCRUNTIME140.dll", False),
        ("_socket.pyd", False),
    ],
)
def test_what_is_left_out(name: str, left_out: bool, recipe: ModuleType) -> None:
    assert recipe.is_left_out(name) is left_out


@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_cpp_library_comes_along_where_the_system_may_lack_it(
    system: str, recipe: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setenv("SYSTEMROOT", "C:/Windows")
    expected = [("msvcp140.dll", "C:/Windows/System32/msvcp140.dll", "BINARY")] if system == "win32" else []
    assert recipe.cpp_library() == expected
