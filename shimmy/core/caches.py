"""Where this user's files may lie that can be made again. It knows nothing of what they are."""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CACHES = {"darwin": "~/Library/Caches", "win32": "~\\AppData\\Local"}


def folder(environ: Mapping[str, str]) -> str:
    """Ours in the user's cache."""
    cache_home = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache_home):
        cache_home = os.path.expanduser(_CACHES.get(sys.platform, "~/.cache"))
    return os.path.join(cache_home, "shimmy")


def roots(environ: Mapping[str, str]) -> "Iterator[Path]":
    """Our folders, best first: in the user's cache, else one of this user's among the temporary files."""
    from pathlib import Path

    yield Path(folder(environ))
    import tempfile

    owner = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    yield Path(tempfile.gettempdir()) / f"shimmy{owner}"
