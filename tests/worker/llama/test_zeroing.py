"""Buffers that take memory on demand: zeros all the same, and left alone where ggml is not what it should be."""

import ctypes as c
import gc
import mmap
import sys

import pytest

from shimmy.worker.engine import Engine
from shimmy.worker.llama import zeroing
from shimmy.worker.llama.context import Context
from tests.worker import plain_loop

PAGE = mmap.PAGESIZE
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux promises zeros")


def filled(num_pages: int) -> tuple[mmap.mmap, int]:
    pages = mmap.mmap(-1, num_pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages[:] = b"\1" * len(pages)
    return pages, c.addressof(c.c_char.from_buffer(pages))


@linux
@pytest.mark.parametrize(
    ("value", "advice"), [(0, None), (7, None), (0, -1)], ids=["zeros", "another value", "no madvise"]
)
def test_a_buffer_is_cleared_to_its_last_byte_and_no_further(
    value: int, advice: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if advice is not None:
        monkeypatch.setattr(zeroing, "_madvise", lambda: lambda *arguments: advice)
    pages, address = filled(6)
    start, end = PAGE + 64, 4 * PAGE + 320
    buffer = zeroing._Buffer(base=address + start, size=end - start)
    zeroing._clear(c.addressof(buffer), value)
    assert pages[start:end] == bytes([value]) * (end - start)
    assert set(pages[:start]) == set(pages[end:]) == {1}


def anonymous_bytes() -> int:
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("RssAnon:"))


def sizes_of(engine: Engine, length: int) -> tuple[int, int, int]:
    """What a context takes when it is made, after 500 tokens and when it has been emptied, in bytes."""
    # What other tests have left must not go meanwhile.
    gc.collect()
    before = anonymous_bytes()
    context = Context(engine._model, context_length=length, num_sequences=1, num_threads=1)
    made = anonymous_bytes() - before
    plain_loop.compute(context, list(range(100, 600)))
    used = anonymous_bytes() - before
    context.forget(0)
    context._library.llama_memory_clear(context._memory, True)
    return made, used, anonymous_bytes() - before


@linux
@pytest.mark.model
def test_a_context_takes_memory_for_what_it_holds(engine: Engine) -> None:
    # 22.5 kB a token; 8,000 tokens would be 180 MB.
    made, used, emptied = sizes_of(engine, 8192)
    assert made < 20 << 20
    assert (500 * 22_500) < used - made < 80 << 20
    assert emptied < used - (8 << 20)


@linux
@pytest.mark.model
@pytest.mark.parametrize("is_lazy", [True, False])
def test_without_it_or_with_another_ggml_all_is_as_ever(
    engine: Engine, is_lazy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Shifted(c.Structure):
        _fields_ = [("more", c.c_void_p), *zeroing._Buffer._fields_]

    monkeypatch.setattr(zeroing, "IS_LAZY", is_lazy)
    monkeypatch.setattr(zeroing, "_Buffer", Shifted)
    context = Context(engine._model, context_length=4096, num_sequences=1, num_threads=1)
    assert context.num_cells == context.context_length == 4096
    assert plain_loop.compute(context, [100, 101, 102]) == 2
