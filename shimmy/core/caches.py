"""Where this user's files may lie that can be made again. It knows nothing of what they are."""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

_CACHES = {"darwin": "~/Library/Caches", "win32": "~\\AppData\\Local"}


def roots(environ: Mapping[str, str]) -> Iterator[Path]:
    """Our folders, best first: in the user's cache, else one of this user's among the temporary files."""
    cache_home = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache_home):
        cache_home = os.path.expanduser(_CACHES.get(sys.platform, "~/.cache"))
    yield Path(cache_home) / "shimmy"
    import tempfile

    owner = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    yield Path(tempfile.gettempdir()) / f"shimmy{owner}"
