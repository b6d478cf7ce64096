"""Imports point one way: the table below is the rule, and docs/map.md explains it.

Every import counts, those inside functions too.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SHIMMY = Path(__file__).parent.parent / "shimmy"

# Who may import what beyond the standard library and itself. The longest prefix of a module's name decides.
ALLOWED: dict[str, set[str]] = {
    "shimmy": set(),
    "shimmy.__main__": {"shimmy.cli", "shimmy.lean", "shimmy.worker.main"},
    "shimmy.core": {"msgspec"},
    "shimmy.convert": {"msgspec", "shimmy.core", "shimmy.models"},
    "shimmy.hardware": {"msgspec", "platformdirs", "shimmy.core"},
    "shimmy.store": {"msgspec", "nacl", "platformdirs", "shimmy.core", "shimmy.hardware"},
    "shimmy.models": {"msgspec", "platformdirs", "shimmy.core"},
    "shimmy.models.stored": {"shimmy.core", "shimmy.models", "shimmy.store"},
    "shimmy.models.making": {"msgspec", "shimmy.core", "shimmy.models", "shimmy.store"},
    "shimmy.models.rewriting": {"shimmy.core", "shimmy.models", "shimmy.store"},
    "shimmy.models.keeping": {"shimmy.core", "shimmy.models", "shimmy.store"},
    "shimmy.pool": {"msgspec", "shimmy.core", "shimmy.hardware", "shimmy.models"},
    "shimmy.protocols": {
        "msgspec",
        "starlette",
        "shimmy.core",
        "shimmy.server.inference",
        "shimmy.server.keep_alive",
        "shimmy.server.store_access",
        "shimmy.server.protocol",
        "shimmy.server.streaming",
        "shimmy.server.strictness",
        "shimmy.server.vectors",
    },
    "shimmy.server": {
        "h11",
        "hypercorn",
        "msgspec",
        "starlette",
        "shimmy.core",
        "shimmy.hardware",
        "shimmy.models",
        "shimmy.pool",
        "shimmy.protocols",
    },
    "shimmy.cli": {
        "click",
        "msgspec",
        "shimmy.core",
        "shimmy.hardware",
        "shimmy.models",
        "shimmy.pool",
        "shimmy.protocols",
        "shimmy.server",
        "shimmy.store",
    },
    "shimmy.worker": {
        "llguidance",
        "minijinja",
        "msgspec",
        "nacl",
        "platformdirs",
        "shimmy.core",
        "shimmy.convert",
        "shimmy.hardware",
        "shimmy.models.gguf",
        "shimmy.models.names",
    },
}
# One protocol is one folder, and it never looks into another.
SEPARATE = "shimmy.protocols."
# Native code is reached through ctypes, and only from here: llama.cpp, the prctl of the C library, OpenSSL's SHA-256.
NATIVE = ("shimmy.worker.llama", "shimmy.worker.sandbox", "shimmy.store.sha256")


def module_name(path: Path) -> str:
    parts = path.relative_to(SHIMMY.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(module: str, is_package: bool, source: str) -> Iterator[str]:
    """Every dotted name that `source` imports; `from a import b` counts as `a.b`."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{above}.{base}".rstrip(".")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def home_of(module: str) -> str:
    """The row of the table that holds for `module`."""
    return max((prefix for prefix in ALLOWED if is_within(module, prefix)), key=len)


def is_allowed(module: str, name: str) -> bool:
    if is_within(name, "ctypes"):
        return any(is_within(module, prefix) for prefix in NATIVE)
    if name.split(".")[0] in sys.stdlib_module_names or is_within(name, "shimmy.__version__"):
        return True
    if is_within(module, SEPARATE[:-1]) and name.startswith(SEPARATE):
        return name.split(".")[2] == module.split(".")[2]
    home = home_of(module)
    return (home != "shimmy" and is_within(name, home)) or any(is_within(name, prefix) for prefix in ALLOWED[home])


def forbidden(module: str, source: str, is_package: bool = False) -> list[str]:
    return [name for name in imported(module, is_package, source) if not is_allowed(module, name)]


@pytest.mark.parametrize("path", sorted(SHIMMY.rglob("*.py")), ids=lambda path: module_name(path))
def test_imports_point_one_way(path: Path) -> None:
    assert forbidden(module_name(path), path.read_text(), path.name == "__init__.py") == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("shimmy.core.request", "import starlette"),
        ("shimmy.core.request", "def late():\n    from shimmy.pool import placement"),
        ("shimmy.pool.handle", "from shimmy import server"),
        ("shimmy.pool.handle", "from ..server.app import build_app"),
        ("shimmy.server.app", "from shimmy.worker.main import main"),
        ("shimmy.protocols.openai.chat", "from shimmy.protocols.ollama import chat"),
        ("shimmy.protocols.openai.chat", "import shimmy.server.lifecycle"),
        ("shimmy.worker.loop", "from shimmy.models.catalog import Catalog"),
        ("shimmy.worker.loop", "import ctypes.util"),
        ("shimmy.cli.serve", "from shimmy.worker.llama import libllama"),
        ("shimmy.models.gguf", "import numpy"),
        ("shimmy", "import msgspec"),
        ("shimmy.core.ipc", "from tests.fakes import worker"),
    ],
)
def test_the_rule_refuses(module: str, source: str) -> None:
    assert forbidden(module, source)


def test_every_folder_has_a_row() -> None:
    folders = {f"shimmy.{path.parent.name}" for path in SHIMMY.glob("*/__init__.py")}
    assert folders <= set(ALLOWED)
