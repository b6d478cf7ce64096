"""A short name for what answers: equal for equal models, builds and set-ups, wherever and whenever they run.

Of each file it takes the size and some samples, since a whole one takes seconds to read; nothing depends on it but
whether a person believes two answers to come from the same model. Where a stale answer would be an error, the file is
looked at more closely (worker/disk/identity.py).
"""

import os
from collections.abc import Mapping, Sequence
from hashlib import blake2b

_NUM_SAMPLES = 64
_SAMPLE_BYTES = 4096


def fingerprint(paths: Sequence[str], setup: Mapping[str, object]) -> str:
    """ "fp_", ten hexadecimal digits for the content of the files, "_", and ten for the set-up. Raises `OSError`."""
    model = blake2b(digest_size=5, person=b"shimmy-model")
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            model.update(size.to_bytes(8, "little"))
            # The header is at the beginning, the last weights at the end.
            last = max(0, size - _SAMPLE_BYTES)
            for number in range(_NUM_SAMPLES + 1):
                file.seek(last * number // _NUM_SAMPLES)
                model.update(file.read(_SAMPLE_BYTES))
    facts = "\n".join(f"{name}={setup[name]!r}" for name in sorted(setup))
    return f"fp_{model.hexdigest()}_{blake2b(facts.encode(), digest_size=5, person=b'shimmy-setup').hexdigest()}"
