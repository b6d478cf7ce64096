"""Folders in the store in which something is made of its files. Each goes with whoever made it: at once, or, where that
process was killed, when the store is swept next. They know nothing of what is made.
"""

import os
import time
from contextlib import ExitStack, suppress

from shimmy.store.locks import locked, locked_if_free

# Hidden, so that it is no model for whoever looks for some where the store is.
_NAME = ".work-"
_LOCK = ".lock"
_TURN_SECONDS = 0.01


class Workplace:
    """One of them, for one thread at a time, until it is closed. Raises `OSError`."""

    def __init__(self, folder: str) -> None:
        """In `folder`, which is there."""
        self.path = os.path.join(folder, f"{_NAME}{os.urandom(8).hex()}")
        self._held = ExitStack()
        # Whoever sweeps may look for a moment whether this is free.
        self._held.enter_context(locked(self.path + _LOCK, lambda: time.sleep(_TURN_SECONDS)))
        with ExitStack() as failing:
            failing.callback(self._held.close)
            os.mkdir(self.path)
            failing.pop_all()

    def take(self, source: str, name: str) -> str:
        """A file under another name, which may have folders before it; not copied, and it stays here though `source`
        goes. Returns its path."""
        path = os.path.join(self.path, *name.split("/"))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            # The file itself: from here a relative link leads elsewhere.
            os.link(os.path.realpath(source), path)
        except FileExistsError:
            raise
        except OSError:
            # For file systems that have no such links. Of these `source` must stay.
            os.symlink(source, path)
        return path

    def file(self, name: str) -> str:
        """The path of one that is to be written."""
        return os.path.join(self.path, name)

    def close(self) -> None:
        """May be called again."""
        _remove(self.path)
        self._held.close()


def sweep_workplaces(folder: str) -> None:
    """Removes those whose process was killed."""
    with suppress(OSError):
        for name in {name.removesuffix(_LOCK) for name in os.listdir(folder) if name.startswith(_NAME)}:
            path = os.path.join(folder, name)
            with suppress(OSError), locked_if_free(path + _LOCK) as is_free:
                if is_free:
                    _remove(path)


def _remove(path: str) -> None:
    # It knows every archive format, and whoever only lists models needs none of that.
    from shutil import rmtree

    rmtree(path, ignore_errors=True)
