"""What may and what may not be inside the executable."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

from shimmy import __version__

pytest.importorskip("PyInstaller", reason="what is inside is read with PyInstaller (make freeze installs it)")

from build import elf
from build.contents import NATIVE, Contents

pytestmark = pytest.mark.frozen
CHECKOUT = Path(__file__).parents[2]
HEAVY = (
    "numpy pydantic pydantic_core httpx httpcore rich grpc huggingface_hub gguf diskcache uvloop jinja2 PIL llama_cpp"
)
TESTING = "pytest hypothesis unittest PyInstaller pip setuptools mypy tests build bench"
# Debian 12, Ubuntu 22.04 and whatever is newer. 2.35 is CPython's (hypot), all else is content with 2.34;
# GLIBCXX_3.4.30 is libggml-rpc.so's, all else is content with 3.4.29. Raising a floor cuts users off.
FLOORS = {"GLIBC": (2, 35), "GLIBCXX": (3, 4, 30), "CXXABI": (1, 3, 13)}


@pytest.fixture(scope="module")
def contents(exe: Path) -> Contents:
    return Contents(exe)


def test_nothing_heavy_is_inside(contents: Contents) -> None:
    tops = {name.split(".")[0] for name in contents.module_names}
    assert {"shimmy", "asyncio", "msgspec", "starlette", "encodings"} <= tops
    assert not tops & {*HEAVY.split(), *TESTING.split()}


def test_only_pinned_packages_are_inside(contents: Contents) -> None:
    """Not what happens to be installed beside them."""
    from build import sbom

    pinned = re.findall(r"^([\w-]+)==(\S+)", (CHECKOUT / "requirements" / "runtime.txt").read_text(), re.M)
    inside = [component for component in sbom.components(contents) if "pkg:pypi" in component.get("purl", "")]
    assert {(part["name"], part["version"]) for part in inside} <= set(pinned)


def test_every_module_of_shimmy_is_inside(contents: Contents) -> None:
    package = CHECKOUT / "shimmy"
    files = [path.relative_to(package.parent).with_suffix("") for path in package.rglob("*.py")]
    names = {".".join(path.parts).removesuffix(".__init__") for path in files}
    # It is the program itself, and so has the name __main__.
    assert names - {"shimmy.__main__"} <= contents.module_names


def test_no_module_says_in_which_columns_of_its_source_it_is(contents: Contents) -> None:
    """Tracebacks would mark them in the lines that they quote, and the source is not there to be quoted."""
    found = {name: set(columns(code)) for name, code in contents.code()}
    assert "shimmy.core.ipc" in found
    assert {name for name, its in found.items() if its != {None}} == set()


def columns(code: CodeType) -> "Iterator[int | None]":
    yield from (column for _, _, column, _ in code.co_positions())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from columns(constant)


def test_every_cpu_variant_is_inside(contents: Contents) -> None:
    libraries = CHECKOUT / "shimmy" / "native"
    carried = dict(contents.shared_libraries())
    assert len([name for name in carried if "ggml-cpu" in name]) >= 14
    for path in libraries.iterdir():
        assert carried[path.name] == path.read_bytes(), path.name


def test_one_stream_of_native_code_is_small(contents: Contents) -> None:
    """llama.cpp for every CPU, the extension modules that no start needs, and OpenSSL."""
    assert sum(item.stored for item in contents.items if item.group == NATIVE) < 8_200_000


def test_no_library_is_looked_for_in_folders_of_the_build_machine(contents: Contents) -> None:
    """On another machine they may be anybody's."""
    paths = {name: path for name, content in contents.shared_libraries() for path in elf.search_paths(content)}
    assert {name for name, path in paths.items() if not path.startswith("$ORIGIN")} == set()


def versions(symbols: str, name: str) -> list[tuple[int, ...]]:
    found = re.findall(rf"\b{name}_([0-9.]+)\b", symbols)
    return [tuple(map(int, version.split("."))) for version in found]


def test_the_systems_libraries_may_be_old(contents: Contents, tmp_path: Path) -> None:
    needed: dict[str, dict[tuple[int, ...], str]] = {name: {} for name in FLOORS}
    for library, content in contents.shared_libraries():
        path = tmp_path / "library"
        path.write_bytes(content)
        symbols = subprocess.run(["objdump", "-T", path], capture_output=True, text=True, check=True).stdout
        # Only what is undefined is asked of the system: a library that brings libstdc++ along also names versions.
        undefined = "\n".join(line for line in symbols.splitlines() if "*UND*" in line)
        for name in FLOORS:
            needed[name].update(dict.fromkeys(versions(undefined, name), library))
    for name, floor in FLOORS.items():
        highest = max(needed[name])
        print(f"{name}_{'.'.join(map(str, highest))} is needed by {needed[name][highest]}")
        assert highest <= floor


def test_the_sbom_lists_what_is_inside(exe: Path, contents: Contents) -> None:
    from build import sbom

    document = json.loads(sbom.text(contents, "0"))
    assert document["metadata"]["component"]["version"] == __version__
    names = {component["name"] for component in document["components"]}
    assert {"cpython", "llama.cpp", "pyinstaller-bootloader", "msgspec", "starlette", "hypercorn"} <= names
    # What lies among the native libraries, and what is compiled into it.
    assert {"minijinja", "pynacl", "cffi", "libsodium", "openssl"} <= names
    assert all(component["licenses"] for component in document["components"])
    written = exe.with_name("shimmy.cdx.json")
    if written.exists():
        kept = json.loads(written.read_text())
        assert kept["components"] == document["components"] and kept["serialNumber"] == document["serialNumber"]
