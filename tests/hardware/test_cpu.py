"""CPU facts from files as Linux writes them."""

from pathlib import Path

import pytest

from shimmy.hardware import cpu

AVX2 = "sse4_2 avx f16c fma avx2 bmi2"
AVX512 = f"{AVX2} avx512f avx512cd avx512vl avx512dq avx512bw"


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ("", "x64"),
        ("sse4_2", "sse42"),
        ("sse4_2 avx f16c", "ivybridge"),
        (AVX2, "haswell"),
        (f"{AVX2} avx_vnni", "alderlake"),
        (AVX512, "skylakex"),
        (f"{AVX512} avx512vbmi avx512_vnni", "icelake"),
        (f"{AVX512} avx512vbmi avx512_vnni avx512_bf16", "zen4"),
        (f"{AVX512} avx512vbmi avx512_vnni avx512_bf16 amx_tile amx_int8", "sapphirerapids"),
    ],
)
def test_the_best_variant_that_the_flags_allow(flags: str, best: str) -> None:
    assert cpu.variants(cpu.flags(f"processor : 0\nflags\t\t: fpu {flags}\n"))[0] == best


def test_no_variant_asks_for_more_than_there_is() -> None:
    assert cpu.variants(set(AVX2.split())) == ["haswell", "piledriver", "ivybridge", "sandybridge", "sse42", "x64"]


def sysfs(root: Path, siblings: dict[int, str]) -> Path:
    for number, text in siblings.items():
        folder = root / f"cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(text + "\n")
    return root


def test_hyper_threads_of_a_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_affinity", lambda: {0, 1, 2, 3})
    folder = sysfs(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert cpu.num_usable_cores(folder, tmp_path) == 2


@pytest.mark.parametrize(("quota", "cores"), [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1)])
def test_a_container_quota_limits_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int
) -> None:
    monkeypatch.setattr(cpu, "_affinity", lambda: {0, 1, 2, 3})
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    (tmp_path / "cpu.max").write_text(quota)
    assert cpu.num_usable_cores(tmp_path / "none", tmp_path) == cores
