"""ggml's threads, made once for a worker. Without them ggml makes new ones for each batch, which the system likes to
start on the core where the batch was submitted: while the server is busy with what the last batch gave, two threads
then take turns on one core, for as long as a short text takes.

Which thread computes what is ggml's business, and how many of them a batch gets the contexts'.
"""

import ctypes as c
from functools import cache

from shimmy.worker.llama.libllama import ggml, llama

# ggml.h, GGML_MAX_N_THREADS; ggml-backend.h, GGML_BACKEND_DEVICE_TYPE_CPU.
_MAX_THREADS = 512
_CPU = 0


class _Parameters(c.Structure):
    """ggml.h, struct ggml_threadpool_params."""

    _fields_ = [
        ("cpumask", c.c_bool * _MAX_THREADS),
        ("n_threads", c.c_int),
        ("prio", c.c_int),
        ("poll", c.c_uint32),
        ("strict_cpu", c.c_bool),
        ("paused", c.c_bool),
    ]


def attach(context: int, num_threads: int) -> None:
    """Has a context compute with the worker's threads, of which there are `num_threads` at least. For the step thread,
    since only one context may compute at a time."""
    if pool := _pool(num_threads):
        llama().llama_attach_threadpool(context, pool, pool)


@cache
def _pool(num_threads: int) -> int | None:
    """None where ggml would have none to make, or cannot make them."""
    if num_threads < 2:
        return None
    registry = ggml().ggml_backend_dev_backend_reg(_cpu())
    address = ggml().ggml_backend_reg_get_proc_address(registry, b"ggml_threadpool_new")
    if not address:
        return None
    # No mask: they may run where the process may. No polling: who waits for work would take time from the server.
    parameters = _Parameters(n_threads=min(num_threads, _MAX_THREADS))
    pool: int | None = c.PYFUNCTYPE(c.c_void_p, c.POINTER(_Parameters))(address)(parameters)
    return pool


def _cpu() -> int:
    library = ggml()
    devices = map(library.ggml_backend_dev_get, range(library.ggml_backend_dev_count()))
    cpu: int = next(device for device in devices if library.ggml_backend_dev_type(device) == _CPU)
    return cpu
