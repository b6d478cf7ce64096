"""A short name for what answers: equal for equal models, builds and set-ups, wherever and whenever they run.

Of each file it takes the size and some samples, since a whole one takes seconds to read; nothing depends on it but
whether a person believes two answers to come from the same model. Where a stale answer would be an error, the file is
looked at more closely (worker/disk/identity.py).
"""

import os

# The module itself: hashlib would open OpenSSL, which takes ten times as long.
from _blake2 import blake2b
from collections.abc import Mapping, Sequence

_NUM_SAMPLES = 64
_SAMPLE_BYTES = 4096


class Fingerprint:
    """What answers, but for what a request selects. Made once after a load; half a millisecond for a file in memory."""

    def __init__(self, paths: Sequence[str], setup: Mapping[str, object]) -> None:
        """`paths` are the model's files in order. Raises `OSError`."""
        self._model = content(paths)
        self._setup = blake2b(digest_size=5, person=b"shimmy-setup")
        self._setup.update("\n".join(f"{name}={setup[name]!r}" for name in sorted(setup)).encode())

    def of(self, selected: object = ()) -> str:
        """ "fp_", ten hexadecimal digits for the content of the files, "_", and ten for the set-up and what the request
        `selected` of it."""
        setup = self._setup.copy()
        if selected:
            setup.update(f"\nselected={selected!r}".encode())
        return f"fp_{self._model}_{setup.hexdigest()}"


def content(paths: Sequence[str]) -> str:
    """Ten hexadecimal digits for the content of files. Raises `OSError`."""
    state = blake2b(digest_size=5, person=b"shimmy-model")
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            state.update(size.to_bytes(8, "little"))
            # The header is at the beginning, the last weights at the end.
            last = max(0, size - _SAMPLE_BYTES)
            for number in range(_NUM_SAMPLES + 1):
                file.seek(last * number // _NUM_SAMPLES)
                state.update(file.read(_SAMPLE_BYTES))
    return str(state.hexdigest())
