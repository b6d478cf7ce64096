"""llguidance's extension module, and nothing else of its package, whose other modules would cost 40 ms to import."""

import importlib
import sys
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_PACKAGE = "llguidance"


@cache
def llguidance() -> Any:
    """To be called no earlier than the first request that needs it."""
    if _PACKAGE not in sys.modules:
        package = ModuleType(_PACKAGE)
        # The frozen program carries the extension module alone, and finds it by its name.
        spec = find_spec(_PACKAGE)
        package.__path__ = list(spec.submodule_search_locations or ()) if spec else []
        sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}._lib")
