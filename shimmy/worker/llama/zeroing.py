"""Makes a context's buffers take memory only when something is stored in them.

llama.cpp fills the KV cache with zeros when it makes a context: 146 ms and 193 MB for 8,192 tokens of a model of 135 M
parameters (`python -m bench.contexts`), most of which no chat ever uses. But pages that the system has just given are
zeros already, and take no memory until they are written. So large buffers on the CPU are cleared here by giving their
pages back to the system, which has the same effect. ggml has no setting for that: what clears a buffer stands in a
table of its own (ggml-backend-impl.h), which is changed while a context is made. Where a buffer is not what that header
says it is, it is left alone, and cleared as ever.

Only Linux promises that pages that were given back (MADV_DONTNEED) are zeros.
"""

import ctypes as c
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from shimmy.worker.llama.libllama import ggml
from shimmy.worker.memory_limit import turn

IS_LAZY = sys.platform == "linux"
# Smaller buffers are not worth it.
_LEAST_BYTES = 1 << 20
# linux/mman.h
_MADV_DONTNEED, _MADV_NOHUGEPAGE = 4, 15

_Alloc = c.CFUNCTYPE(c.c_void_p, c.c_void_p, c.c_size_t)
_Clear = c.CFUNCTYPE(None, c.c_void_p, c.c_uint8)


class _BufferType(c.Structure):
    """The beginning of ggml_backend_buffer_type."""

    _fields_ = [("get_name", c.c_void_p), ("alloc_buffer", c.c_void_p)]


class _Buffer(c.Structure):
    """ggml_backend_buffer."""

    _fields_ = [
        ("before", c.c_void_p * 9),
        ("clear", c.c_void_p),
        ("reset", c.c_void_p),
        ("type", c.c_void_p),
        ("base", c.c_void_p),
        ("size", c.c_size_t),
    ]


# The sizes of the buffers that were cleared, while somebody wants to know them.
_sizes: list[int] | None = None


@contextmanager
def on_demand() -> Iterator[list[int]]:
    """The CPU's buffers that are made within take memory on demand. Gives the list of their sizes in bytes. They take
    address space at once, so nobody may limit that meanwhile."""
    with turn:
        if IS_LAZY:
            yield from _replaced()
        else:
            yield []


def _replaced() -> Iterator[list[int]]:
    global _sizes
    sizes: list[int] = []
    address = ggml().ggml_backend_cpu_buffer_type()
    table = _BufferType.from_address(address)
    original = table.alloc_buffer
    allocate = _Alloc(original)

    def alloc_buffer(type_: int, size: int) -> int | None:
        made: int | None = allocate(type_, size)
        if made and size >= _LEAST_BYTES:
            buffer = _Buffer.from_address(made)
            if (buffer.type, buffer.size) == (address, size) and buffer.base and buffer.clear:
                buffer.clear = c.cast(_clear_callback, c.c_void_p).value
        return made

    replacement = _Alloc(alloc_buffer)
    table.alloc_buffer = c.cast(replacement, c.c_void_p).value
    _sizes = sizes
    try:
        yield sizes
    finally:
        table.alloc_buffer = original
        _sizes = None


def _clear(address: int, value: int) -> None:
    buffer = _Buffer.from_address(address)
    base, size, page = buffer.base, buffer.size, os.sysconf("SC_PAGE_SIZE")
    start, end = -(-base // page) * page, (base + size) // page * page
    if value or _madvise()(start, end - start, _MADV_DONTNEED):
        c.memset(base, value, size)
        return
    # The tensors of layers lie far apart: a few tokens would take a large page in each. 3,000 tokens of a small model
    # took 179 MB then instead of 57, for steps that were 2 % faster.
    _madvise()(start, end - start, _MADV_NOHUGEPAGE)
    c.memset(base, 0, start - base)
    c.memset(end, 0, base + size - end)
    if _sizes is not None:
        _sizes.append(size)


_clear_callback = _Clear(_clear)


@cache
def _madvise() -> Any:
    function = c.PyDLL(None).madvise
    function.argtypes = (c.c_size_t, c.c_size_t, c.c_int)
    return function
