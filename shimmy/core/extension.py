"""An extension module alone: without the package around it, whose other modules would cost time and memory."""

import importlib
import sys
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def extension(package: str, module: str) -> Any:
    """`module` of `package`. Nothing else of the package can be imported afterwards. Raises `ImportError`."""
    if package not in sys.modules:
        bare = ModuleType(package)
        # The frozen program carries the extension module alone, and finds it by its name.
        spec = find_spec(package)
        bare.__path__ = list(spec.submodule_search_locations or ()) if spec else []
        sys.modules[package] = bare
    return importlib.import_module(f"{package}.{module}")
