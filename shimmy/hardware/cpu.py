"""The CPU: how many threads are worth starting, which instruction sets it has, which ggml CPU variants fit it."""

import os

_Path = str | os.PathLike[str]

# ggml/src/CMakeLists.txt, ggml_add_cpu_backend_variant: what each variant needs, in /proc/cpuinfo's words, best first.
_AVX2 = {"sse4_2", "avx", "f16c", "fma", "avx2", "bmi2"}
_AVX512 = _AVX2 | {"avx512f", "avx512cd", "avx512vl", "avx512dq", "avx512bw"}
_VARIANTS: list[tuple[str, set[str]]] = [
    ("sapphirerapids", _AVX512 | {"avx512vbmi", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8"}),
    ("zen4", _AVX512 | {"avx512vbmi", "avx512_vnni", "avx512_bf16"}),
    ("cooperlake", _AVX512 | {"avx512_vnni", "avx512_bf16"}),
    ("icelake", _AVX512 | {"avx512vbmi", "avx512_vnni"}),
    ("cascadelake", _AVX512 | {"avx512_vnni"}),
    ("cannonlake", _AVX512 | {"avx512vbmi"}),
    ("skylakex", _AVX512),
    ("alderlake", _AVX2 | {"avx_vnni"}),
    ("haswell", _AVX2),
    ("piledriver", {"sse4_2", "avx", "f16c", "fma"}),
    ("ivybridge", {"sse4_2", "avx", "f16c"}),
    ("sandybridge", {"sse4_2", "avx"}),
    ("sse42", {"sse4_2"}),
    ("x64", set()),
]


def flags(cpuinfo: str | None = None) -> set[str]:
    """The CPU's feature flags as Linux spells them; empty where there is no /proc/cpuinfo."""
    if cpuinfo is None:
        try:
            cpuinfo = _read("/proc/cpuinfo")
        except OSError:
            return set()
    for line in cpuinfo.splitlines():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def variants(have: set[str]) -> list[str]:
    """The x86-64 variants of ggml's CPU backend that this CPU can run, best first."""
    return [name for name, needs in _VARIANTS if needs <= have]


def num_usable_cores(sysfs: _Path = "/sys/devices/system/cpu", cgroup: _Path = "/sys/fs/cgroup") -> int:
    """Physical cores this process may run on, at most the cgroup's CPU quota, at least 1.

    Hyper-threads of one core share the execution units that matrix products keep busy, so they count once.
    """
    cores = {_core_of(cpu, sysfs) for cpu in _affinity()}
    return max(1, min(len(cores), _quota(cgroup)))


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _core_of(cpu: int, sysfs: _Path) -> str:
    """The siblings list names a physical core; where sysfs has none every CPU is its own."""
    try:
        return _read(os.path.join(sysfs, f"cpu{cpu}/topology/thread_siblings_list")).strip()
    except OSError:
        return str(cpu)


def _quota(cgroup: _Path) -> int:
    """Whole cores of the cgroup v2 quota (cpu.max: "MICROSECONDS|max PERIOD")."""
    try:
        quota, period = _read(os.path.join(cgroup, "cpu.max")).split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return os.cpu_count() or 1


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
