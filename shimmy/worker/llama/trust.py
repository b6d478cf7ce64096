"""Whether anybody but this user and root could have changed a file: a library is code. Knows nothing of libraries."""

import os
import stat
from pathlib import Path

_ROOT = 0
_ACCESS_LIST = "system.posix_acl_access"


def is_ours(status: os.stat_result) -> bool:
    """By us, or by root, who could do anything anyway: an image may bring the file along."""
    return not hasattr(os, "geteuid") or status.st_uid in (_ROOT, os.geteuid())


def exposure(path: Path) -> str | None:
    """How somebody else could change what is at `path`, or put something beside it; None when nobody can.

    Every folder up to the root counts, for whoever may write to one can exchange what is in it. `path` is absolute and
    has no links in it (`os.path.realpath`). Raises `OSError` when it is not there.
    """
    folder = path if path.is_dir() else path.parent
    for place in (path, *path.parents):
        status = place.lstat()
        if not is_ours(status):
            return f"{place} belongs to user {status.st_uid}"
        # In a sticky folder, such as /tmp, nobody can exchange what is ours; but add to it anybody can.
        if _is_shared(place, status) and not (status.st_mode & stat.S_ISVTX and place in folder.parents):
            return f"others may write to {place} (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def _is_shared(place: Path, status: os.stat_result) -> bool:
    # Windows keeps this in access lists, and a user's folders there are the user's.
    if not hasattr(os, "geteuid"):
        return False
    if status.st_mode & stat.S_IWOTH:
        return True
    return bool(status.st_mode & stat.S_IWGRP) and not _is_private(place, status.st_gid)


def _is_private(place: Path, group: int) -> bool:
    """Whether the group is one of those that many systems give each user, who then makes files that it may write to."""
    import grp
    import pwd

    # Where there is an access list, the group's bits are about everybody in it.
    if _ACCESS_LIST in (os.listxattr(place) if hasattr(os, "listxattr") else ()):
        return False
    try:
        name, _, _, members = grp.getgrgid(group)
        ours = {pwd.getpwuid(user).pw_name for user in (_ROOT, os.geteuid())}
    except KeyError:
        return False
    return name in ours and ours.issuperset(members)
