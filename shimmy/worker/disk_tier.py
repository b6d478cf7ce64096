"""Opens the disk tier for a model that is loaded: says what its states depend on, so that no other model, build or kind
of context ever meets them. The tier itself is in worker/disk and knows nothing of llama.cpp.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from shimmy.core.ipc import DiskCache
from shimmy.hardware.libraries import backend_file, linked_file
from shimmy.worker.disk.identity import Stamp, identity, observe
from shimmy.worker.disk.tier import DiskTier
from shimmy.worker.llama import optional
from shimmy.worker.llama.context import Context
from shimmy.worker.llama.libllama import find
from shimmy.worker.llama.model import Model

log = logging.getLogger("shimmy.worker")

# What libllama.so.0 consists of beside itself.
_LINKED = ("llama", "ggml", "ggml-base")


def open_tier(
    cache: DiskCache, files: Mapping[str, Stamp], model: Model, context: Context, cpu_variant: str
) -> DiskTier | None:
    """`files` are the model's as they were before the load. None, and a line in the log, where nobody can say what was
    loaded, because one of them was replaced meanwhile."""
    libraries = [find(linked_file(target)) for target in _LINKED]
    libraries.append(find(backend_file(f"cpu-{cpu_variant}")))
    # Those of GPUs have hundreds of megabytes and are looked at like models.
    backends = [os.fspath(path) for path in optional.opened()]
    traits = context.traits | {f"layers on {device}": number for device, number in model.layers.items()}
    try:
        who = identity({**files, **observe(backends)}, libraries, traits)
    except OSError as error:
        log.warning("states are not kept on disk: %s", error)
        return None
    key = cache.key.value if cache.key else None
    return DiskTier(Path(os.fsdecode(cache.folder)), cache.limit_bytes, who, model.reuse.fits, key)
