"""Which variants of the CPU backend are tried, in which order, and what the log tells of memory."""

import sys
from pathlib import Path

import pytest

from shimmy.hardware import cpu
from shimmy.hardware.libraries import backend_file, linked_file
from shimmy.worker.llama import backend

SYSTEMS = ["linux", "darwin", "win32"]
# What each says of itself on the machine at hand.
SCORES = {"x64": 1, "haswell": 64, "zen4": 0, "armv8.2_1": 3}


@pytest.fixture(params=SYSTEMS)
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variants that were opened to be asked, on each system in turn."""
    found: list[str] = []

    def score(path: Path) -> int:
        name = next(name for name in SCORES if path.name == backend_file(f"cpu-{name}"))
        found.append(name)
        return SCORES[name]

    monkeypatch.setattr(sys, "platform", request.param)
    variants = {name: backend_file(f"cpu-{name}") for name in SCORES}
    monkeypatch.setattr(backend, "names", lambda: [linked_file("ggml"), backend_file("rpc"), *variants.values()])
    monkeypatch.setattr(backend, "find", Path)
    monkeypatch.setattr(backend, "_score", score)
    return found


def test_by_flags_no_variant_is_opened_to_be_asked(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "flags", lambda: {"sse4_2", "avx", "f16c", "fma", "avx2", "bmi2"})
    assert backend._candidates() == ["haswell", "x64"]
    assert opened == []


def test_without_flags_each_variant_is_asked(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /proc/cpuinfo: the slowest variant, which asks for nothing, must not win."""
    monkeypatch.setattr(cpu, "flags", lambda: set())
    assert backend._candidates() == ["haswell", "armv8.2_1", "x64", "zen4"]
    assert sorted(opened) == sorted(SCORES)


def test_flags_that_none_of_ours_has(opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "flags", lambda: {"asimd"})
    monkeypatch.setattr(cpu, "variants", lambda have: ["unknown"])
    assert backend._candidates()[0] == "haswell"


def test_what_was_made_is_told_by_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what llama.cpp logs; names of buffers begin with those of their devices."""
    monkeypatch.setattr(backend, "_made", {})
    monkeypatch.setattr(backend, "_buffers", {})
    for line in (
        b"load_tensors:        CUDA1 model buffer size =   2.00 MiB\n",
        b"load_tensors:  CUDA1_Split model buffer size =   1.00 MiB\n",
        b"load_tensors:   CPU_Mapped model buffer size =  16.00 MiB\n",
        b"llama_kv_cache:      CUDA1 KV buffer size =   4.00 MiB\n",
        b"llama_kv_cache:     CUDA10 KV buffer size =   8.00 MiB\n",
        b"sched_reserve:   CUDA_Host compute buffer size =  32.00 MiB\n",
        b"it has a buffer size = that nobody knows, in MiB\n",
        b"sched_reserve: RPC0[127.0.0.1:50052] compute buffer size =   0.50 MiB\n",
    ):
        backend._on_log(2, line, None)
    mib = 1 << 20
    assert backend.taken_of(["CUDA1", "CUDA10", "RPC0"]) == {"CUDA1": 7 * mib, "CUDA10": 8 * mib, "RPC0": mib // 2}
    assert backend.placed()[1] == {"CUDA1": 2 * mib, "CUDA1_Split": mib, "CPU_Mapped": 16 * mib}
