"""Where this user's store is, and what its folders are called. Imported by every start, so it is no more than that."""

import os
from collections.abc import Mapping

BLOBS, MANIFESTS, PARTIAL = "blobs", "manifests", "partial"


def store_path(environ: Mapping[str, str]) -> str:
    """Whether or not there is one yet."""
    named = environ.get("SHIMMY_STORE")
    if named:
        return os.path.abspath(os.path.expanduser(named))
    from platformdirs import user_data_dir

    return os.path.join(user_data_dir("shimmy", appauthor=False), "store")
