"""llguidance's extension module, and nothing else of its package, whose other modules would cost 40 ms to import."""

from functools import cache
from typing import Any

from shimmy.core.extension import extension


@cache
def llguidance() -> Any:
    """To be called no earlier than the first request that needs it."""
    return extension("llguidance", "_lib")
