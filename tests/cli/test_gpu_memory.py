"""What models may take of a GPU, with one that is compiled here: the CPU with memory of its own."""

import json
import re
import shutil
import urllib.request
from pathlib import Path

import pytest

from tests import program
from tests.cli.machine import Machine, ask
from tests.program import DEMO, DEMO_ID, LIMIT_SECONDS, Program

pytestmark = [
    pytest.mark.program,
    pytest.mark.model,
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]

MB = 1_000_000
MODEL = ["--model-path", str(DEMO)]
SHORT = ["--ctx", "512"]
# The whole model with such a context takes 211 MB: its weights, logits for 512 tokens, and a little more.
WHOLE_BYTES = 211 * MB
NUM_LAYERS = 31


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("one", "two"):
        # What is one file is one model.
        shutil.copyfile(DEMO, folder / f"{name}.gguf")
    return ["--model-dirs", str(folder)]


def metric(running: Program, name: str) -> int:
    request = urllib.request.Request(f"{running.url}/metrics", headers={"accept": "text/plain"})
    with urllib.request.urlopen(request, timeout=LIMIT_SECONDS) as answer:
        [line] = [line for line in answer.read().decode().splitlines() if line.startswith(f"{name}{{")]
    labels, value = line.removeprefix(name).split()
    assert labels == '{gpu="Fake0"}'
    return int(value)


def on_the_gpu(running: Program, machine: Machine) -> int:
    """What the workers took of the GPU, by its own account; that of the system does not know it."""
    return sum(int((machine.ledger / str(pid)).read_text()) for pid in running.worker_pids())


def test_as_many_layers_as_fit_and_what_they_take_is_told(machine: Machine) -> None:
    limit = 180 * MB
    machine.gpu(limit)
    with program.program(machine.home, *MODEL, *SHORT, "--gpu-layers", "auto") as running:
        assert ask(running)["choices"]
        layers = running.get(f"/v1/models/{DEMO_ID}")["layers"]
        assert layers["CPU"] + layers["Fake0"] == NUM_LAYERS and 0 < layers["Fake0"] < NUM_LAYERS
        taken = on_the_gpu(running, machine)
        # One layer more would be 2.4 MB more, and a sixteenth is left to others.
        assert 0.9 * limit < taken + limit / 16 < limit
        [loaded] = running.get("/api/ps")["models"]
        assert loaded["size_vram"] == pytest.approx(taken, rel=0.01) and loaded["size"] > loaded["size_vram"]
        status = running.get(f"/api/models/{DEMO_ID}/status")
        assert status["gpu_memory_bytes"] == {"Fake0": loaded["size_vram"]} and status["layers"] == layers
        assert metric(running, "shimmy_gpu_memory_limit_bytes") == limit
        assert metric(running, "shimmy_gpu_memory_taken_bytes") == loaded["size_vram"]
    log = (machine.home / "stderr.txt").read_text()
    found = re.search(r"took (\d+) MiB of Fake0, (\d+) were estimated", log.replace(" MiB were", " were"))
    assert found is not None
    measured, estimated = map(int, found.groups())
    assert estimated == pytest.approx(measured, rel=0.05)
    for flags in (["--gpu-layers", "auto"], []):
        [fit] = json.loads(machine.run("fit", DEMO_ID, *MODEL, *SHORT, *flags, "--json").stdout)["contexts"]
        assert fit["gpus"]["Fake0"]["layers"] == layers["Fake0"] and fit["fits"]


def test_an_idle_model_leaves_where_the_memory_of_the_gpu_is_short(machine: Machine, two: list[str]) -> None:
    machine.gpu(int(1.5 * WHOLE_BYTES))
    for number in ("all", "auto"):
        with program.program(machine.home, *two, *SHORT, "--gpu-layers", number) as running:
            for name in ("one", "two", "one"):
                assert ask(running, name)["choices"]
                [loaded] = running.get("/api/ps")["models"]
                assert loaded["name"] == f"{name}:latest"
                assert running.get(f"/v1/models/{name}")["layers"] == {"Fake0": NUM_LAYERS}
                assert loaded["size_vram"] == pytest.approx(WHOLE_BYTES, rel=0.02)


def test_what_does_not_fit_onto_the_gpu_is_refused_with_what_it_needs(machine: Machine) -> None:
    machine.gpu(150 * MB)
    with program.program(machine.home, *MODEL, *SHORT, "--gpu-layers", "all") as running:
        error = ask(running)["error"]
        assert error["code"] == "insufficient_memory"
        said = r"needs 20\d MiB of memory on Fake0, and 143 MiB of 143 MiB are free: put fewer layers there"
        assert re.search(said, error["message"])
        assert not running.worker_pids()
    table = machine.run("fit", DEMO_ID, *MODEL, *SHORT, "--gpu-layers", "all").stdout
    assert re.search(r"^512 .* 20\d MiB, 31 layers +no$", table, re.MULTILINE)


def test_where_less_fits_than_was_expected_fewer_layers_do(machine: Machine) -> None:
    """This GPU computes without flash attention, so a long context takes more than that of others."""
    machine.gpu(300 * MB)
    done = machine.run("probe", DEMO_ID, *MODEL, "--gpu-layers", "auto")
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) layers on Fake0, ", done.stdout)
    assert found is not None and 0 < int(found[1]) < 18
    # Twice a process that asked what is free, then one that was to have the model.
    assert machine.num_opened == 4


def test_a_gpu_that_ends_a_load_is_done_without_unless_it_was_asked_for(machine: Machine, two: list[str]) -> None:
    machine.gpu(300 * MB, "-DBREAKS")
    failure = "with layers on Fake0: model 'one' cannot be loaded: its worker process ended (SIGABRT)"
    with program.program(machine.home, *two, *SHORT) as running:
        for name in ("one", "two"):
            assert ask(running, name)["choices"]
            status = running.get(f"/api/models/{name}/status")
            assert status["layers"] == {"CPU": NUM_LAYERS} and status["gpu_failure"].startswith(failure)
        assert all(each["gpu_failure"].startswith(failure) for each in running.get("/api/ps")["models"])
        table = machine.run("ps", "--url", running.url).stdout.splitlines()
        assert [line.split()[2] for line in table] == ["GPU", "failed", "failed"]
    log = (machine.home / "stderr.txt").read_text()
    assert f"model one is loaded once more, without GPUs: {failure}" in log
    assert "worker of model two" not in log and "no layers go to Fake, unless settings ask for that" in log
    done = machine.run("probe", DEMO_ID, *MODEL)
    assert done.returncode == 0 and "31 layers on CPU" in done.stdout
    assert done.stderr.startswith("warning: with layers on Fake0: ") and done.stderr.count("\n") == 1
    done = machine.run("probe", DEMO_ID, *MODEL, "--gpu-backend", "vulkan")
    assert done.returncode != 0 and "its worker process ended (SIGABRT)" in done.stderr


def test_without_a_gpu_the_cpu_has_all_layers(machine: Machine) -> None:
    done = machine.run("probe", DEMO_ID, *MODEL, "--gpu-layers", "auto")
    assert (done.returncode, done.stderr) == (0, "") and "31 layers on CPU," in done.stdout
