"""What is learned of a model from its loads: how far off the estimate was, and that there was too little."""

import msgspec

from shimmy.core.engine_settings import EngineSettings
from shimmy.core.ipc import Device, EngineOptions
from shimmy.pool.demand import Demand, Experience, Needs
from shimmy.pool.supervisor import MAIN
from tests.fakes.pool import fake_model

# Nothing is known of its layers, so that it is one.
MODEL = msgspec.structs.replace(fake_model("m"), size_bytes=1000, identity=((0, 1, 2, 3),))
OTHER = msgspec.structs.replace(MODEL, identity=((0, 4, 2, 3),))
GPU = Device("G0", "", "gpu", "", 0, 0)
OPTIONS = EngineOptions(settings=msgspec.msgpack.encode(EngineSettings(gpu_layers="auto")))


def needs(experience: Experience, free_bytes: int, gpu: Device = GPU) -> Needs:
    return Demand(MODEL, OPTIONS, [gpu], experience).of({"G0": free_bytes})


def test_the_next_load_goes_by_what_the_last_one_took() -> None:
    experience = Experience()
    guessed = needs(experience, 1000)
    assert (guessed.layers, guessed.gpu_bytes) == ({"G0": 1}, {"G0": 1000})
    assert not needs(experience, 999).num_layers
    corrected = experience.note(MODEL, guessed, 700, {"G0": 1500})
    assert corrected.bytes == {MAIN: 700, "G0": 1500}
    assert not needs(experience, 1499).num_layers
    assert needs(experience, 1500).bytes == {MAIN: 700, "G0": 1500}
    # What it takes of main memory without that layer was not seen.
    assert needs(experience, 0).bytes[MAIN] > 1000
    assert Demand(OTHER, OPTIONS, [GPU], experience).of({"G0": 1000}).num_layers == 1


def test_after_a_load_that_failed_less_is_put_there_and_after_two_nothing() -> None:
    experience = Experience()
    experience.note_want(MODEL, needs(experience, 1000))
    assert not needs(experience, 1499).num_layers
    experience.note_want(MODEL, needs(experience, 1500))
    assert not (without := needs(experience, 1 << 30)).num_layers
    # That is not for ever.
    experience.note(MODEL, without, None, {})
    assert needs(experience, 1000).num_layers == 1


def test_memory_that_a_gpu_shares_counts_as_main_memory_too() -> None:
    integrated = msgspec.structs.replace(GPU, kind="integrated gpu")
    apart, shared = needs(Experience(), 1000), needs(Experience(), 1000, integrated)
    assert shared.gpu_bytes == apart.gpu_bytes == {"G0": 1000}
    assert shared.bytes[MAIN] == apart.bytes[MAIN] + 1000


def test_the_worker_is_told_what_was_planned() -> None:
    demand = Demand(MODEL, OPTIONS, [GPU], Experience())
    told = [
        msgspec.msgpack.decode(demand.options(demand.of({"G0": free}).layers).settings, type=EngineSettings)
        for free in (1000, 0)
    ]
    assert [(each.gpu_layers, each.device) for each in told] == [("all", ("G0",)), (0, ())]
