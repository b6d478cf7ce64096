"""What the system says of changes in folders (inotify, FSEvents, ReadDirectoryChangesW), through watchfiles' extension
module. Knows folders and paths, nothing of models.
"""

import threading
from collections.abc import Sequence

from shimmy.core.extension import extension

Changes = set[tuple[int, str]]
# What has become of a path. A rename is one that has gone and one that is new.
NEW, MODIFIED, GONE = 1, 2, 3
# A wait looks so often whether it is over; each look costs 0.05 ms.
_STEP_MS = 100
# Changes that go on without a pause are told after this time.
_DEBOUNCE_MS = 300


class Notifications:
    """Watches folders, and not what is below them, from when it is made until `close`. Raises OSError where that is not
    possible: for a folder that has gone, or where the system watches no more."""

    def __init__(self, folders: Sequence[str]) -> None:
        try:
            library = extension("watchfiles", "_rust_notify")
        except ImportError as error:
            raise OSError(f"watchfiles is not there: {error}") from error
        self._error: type[Exception] = library.WatchfilesRustInternalError
        try:
            self._watcher = library.RustNotify(list(folders), False, False, 0, False, True)
        except self._error as error:
            raise OSError(str(error)) from error

    def wait(self, seconds: float, stopped: threading.Event) -> Changes:
        """What has changed since the last call, as soon as there is something; nothing after `seconds`, or when
        `stopped` is set. Raises OSError when it cannot go on: a path that is not UTF-8 is enough."""
        try:
            told = self._watcher.watch(_DEBOUNCE_MS, _STEP_MS, max(1, int(1000 * seconds)), stopped)
        except self._error as error:
            raise OSError(str(error)) from error
        return told if isinstance(told, set) else set()

    def close(self) -> None:
        self._watcher.close()
