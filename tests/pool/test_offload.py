"""Which layers go to which GPU: as llama.cpp shares them out, and never more than fit."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from shimmy.core.engine_settings import EngineSettings, check
from shimmy.core.ipc import Device
from shimmy.pool.offload import as_many_as_fit, as_planned, share, usable

PARTS = st.dictionaries(st.sampled_from("ABCD"), st.integers(0, 100), min_size=1)


@given(st.integers(1, 100), PARTS)
def test_all_layers_are_shared_out(num_layers: int, parts: dict[str, int]) -> None:
    layers = share(num_layers, parts)
    if not any(parts.values()):
        assert layers == {}
        return
    assert list(layers) == list(parts)
    assert sum(layers.values()) == num_layers
    for name, part in parts.items():
        assert abs(layers[name] - num_layers * part / sum(parts.values())) < 1 + 1e-9


@given(st.dictionaries(st.sampled_from("ABCD"), st.integers(0, 40), min_size=1))
def test_whole_numbers_of_layers_are_kept(layers: dict[str, int]) -> None:
    """So what was planned can be handed on as parts."""
    assert share(sum(layers.values()), layers) == (layers if any(layers.values()) else {})


@given(
    st.integers(1, 60), st.dictionaries(st.sampled_from("ABC"), st.integers(0, 1000), min_size=1), st.integers(1, 100)
)
def test_as_many_as_fit(num_layers: int, free: dict[str, int], size: int) -> None:
    def needs(layers: Mapping[str, int]) -> dict[str, int]:
        return {name: 50 + size * number for name, number in layers.items() if number}

    def fits(layers: Mapping[str, int]) -> bool:
        return all(needed <= free[name] for name, needed in needs(layers).items())

    layers = as_many_as_fit(num_layers, free, free, needs)
    assert fits(layers) and sum(layers.values()) <= num_layers
    if len(free) == 1 and sum(layers.values()) < num_layers:
        [name] = free
        assert not fits({name: sum(layers.values()) + 1})


def test_what_a_gpu_without_layers_gets_is_not_asked_of_it() -> None:
    """Tensors that a rule moves there: whether it has them the worker says."""

    def needs(layers: Mapping[str, int]) -> dict[str, int]:
        return {"A": 10 * layers["A"], "B": 1 << 60}

    assert as_many_as_fit(5, {"A": 30}, {"A": 30}, needs) == {"A": 3}


def gpu(name: str, kind: str = "gpu") -> Device:
    return Device(name, "", kind, "", 1, 1)


def test_those_that_llama_cpp_would_take() -> None:
    there = [gpu("CPU", "cpu"), gpu("I0", "integrated gpu"), gpu("G0"), gpu("G1")]

    def names(**settings: object) -> list[str] | None:
        found = usable(there, EngineSettings(**settings))  # type: ignore[arg-type]
        return None if found is None else [device.name for device in found]

    assert names(gpu_layers="all") == ["G0", "G1"]
    assert names(device=("g1", "I0")) == ["G1", "I0"]
    assert names(device=("G1", "G7")) is None
    assert names(gpu_layers="all", main_gpu=1) == ["G1"]
    assert names(gpu_layers="auto", split_mode="none") == ["G0"]
    # What is wrong with it says the worker.
    assert names(gpu_layers="all", main_gpu=2) is names(gpu_layers="auto", main_gpu=2) is None
    assert names(gpu_layers="auto", tensor_split=(1.0, 1.0, 1.0)) is None
    there = there[:2]
    assert names(gpu_layers="auto") == ["I0"]
    there = there[:1]
    assert (names(gpu_layers="auto"), names(gpu_layers="all")) == ([], None)


def test_a_gpu_of_two_backends_is_one_gpu() -> None:
    """As llama.cpp has it where nobody names devices."""

    def names(*devices: Device, **settings: object) -> list[str]:
        found = usable(devices, EngineSettings(gpu_layers="auto", **settings))  # type: ignore[arg-type]
        return [device.name for device in found or ()]

    def gpu(name: str, id: str = "", kind: str = "gpu") -> Device:
        return Device(name, "", kind, name.rstrip("0123456789"), 1, 1, gpu_id=id)

    cuda, vulkan = [gpu("CUDA0", "01"), gpu("CUDA1", "02")], [gpu("Vulkan0", "02"), gpu("Vulkan1", "03")]
    assert names(*cuda, *vulkan) == ["CUDA0", "CUDA1", "Vulkan1"]
    assert names(*cuda, *vulkan, main_gpu=2) == ["Vulkan1"]
    assert names(*cuda, *vulkan, device=("CUDA1", "Vulkan0")) == ["CUDA1", "Vulkan0"]
    # Without ids nobody knows.
    assert names(gpu("CUDA0"), gpu("Vulkan0")) == ["CUDA0", "Vulkan0"]
    of_the_processor = [gpu(name, kind="integrated gpu") for name in ("SYCL0", "SYCL1", "Vulkan0")]
    assert names(*of_the_processor) == ["SYCL0", "SYCL1"]


def test_settings_that_say_what_was_planned() -> None:
    given = EngineSettings(gpu_layers="auto", split_mode="layer", cache_type_k="q8_0", cpu_moe=True)
    two = as_planned(given, {"G0": 3, "G1": 4}, ["G0", "G1"], is_whole=False)
    assert (two.gpu_layers, two.device, two.tensor_split) == (7, ("G0", "G1"), (3.0, 4.0))
    one = as_planned(EngineSettings(gpu_layers="auto", main_gpu=1), {"G1": 4}, ["G1"], is_whole=True)
    assert (one.gpu_layers, one.device, one.tensor_split, one.main_gpu) == ("all", ("G1",), (), None)
    none = as_planned(given, {}, ["G0", "G1"], is_whole=False)
    assert none.num_gpu_layers == 0 and not none.device
    mine = as_planned(given, {"G0": 3}, ["G0"], is_whole=False, providers={"vulkan"})
    assert (mine.gpu_backend, two.gpu_backend) == ("vulkan", None)
    several = as_planned(given, {"G0": 3, "G1": 4}, ["G0", "G1"], is_whole=False, providers={"vulkan", "cuda"})
    assert several.gpu_backend is None
    for planned in (two, one, none, mine, several):
        check(planned)
    assert two.cache_type_k == none.cache_type_k == "q8_0" and two.cpu_moe
