"""What a context for vectors computes, seen from llama.cpp: which graphs it builds."""

import array
import ctypes

import pytest

from shimmy.core.request import Pooling
from shimmy.hardware.libraries import linked_file
from shimmy.worker.encoder import EncoderEngine
from shimmy.worker.llama.libllama import find
from shimmy.worker.llama.pooled import PooledContext

pytestmark = pytest.mark.model
CLS, SEP = 101, 102
A_CAT, OLD_TOWNS, TWO_DOGS = [1037, 4937], [2214, 4865, 1999], [2048, 6077, 2743, 2058]


class Performance(ctypes.Structure):
    """`llama_perf_context_data` of llama.h."""

    _fields_ = [
        *((name, ctypes.c_double) for name in ("start_ms", "load_ms", "prompt_ms", "decode_ms")),
        *((name, ctypes.c_int32) for name in ("num_prompt", "num_decoded", "num_reused")),
    ]


def num_reused(context: PooledContext) -> int:
    """How many batches were computed with the graph of the one before."""
    performance = ctypes.CDLL(str(find(linked_file("llama")))).llama_perf_context
    performance.argtypes, performance.restype = [ctypes.c_void_p], Performance
    return int(performance(context._handle).num_reused)


def vectors(context: PooledContext, *texts: list[int]) -> list[list[float]]:
    """Of one batch."""
    context.batch.clear()
    for sequence, text in enumerate(texts):
        context.batch.add(sequence, array.array("i", [CLS, *text, SEP]), 0, logits=True, every=True)
    context.decode()
    return [list(memoryview(context.vector(sequence)).cast("f")) for sequence in range(len(texts))]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_batches_of_one_shape_share_a_graph_and_nothing_else(encoder: EncoderEngine, pooling: Pooling) -> None:
    context = encoder._make_context(pooling)
    batches = [(A_CAT, TWO_DOGS), (TWO_DOGS, A_CAT), (OLD_TOWNS, OLD_TOWNS), (OLD_TOWNS[::-1], OLD_TOWNS)]
    together = [vectors(context, *batch) for batch in batches]
    assert num_reused(context) == len(batches) - 1
    for batch, found in zip(batches, together, strict=True):
        for text, vector in zip(batch, found, strict=True):
            # Of another shape each time.
            fresh = encoder._make_context(pooling)
            assert vector == pytest.approx(vectors(fresh, text)[0], abs=1e-3)


def test_another_shape_has_another_graph(encoder: EncoderEngine) -> None:
    context = encoder._make_context("mean")
    for batch in [(A_CAT,), (TWO_DOGS,), (A_CAT, A_CAT), (OLD_TOWNS,), (A_CAT,)]:
        vectors(context, *batch)
    assert num_reused(context) == 0
