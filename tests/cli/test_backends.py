"""Optional backends, with libraries that are compiled here and leave a mark when they are opened: from two folders
and no others, never when somebody else could have put them there, and not at all for those who want the CPU."""

import os
import re
import shutil
from pathlib import Path

import pytest

from shimmy.worker.llama.trust import exposure
from tests import program
from tests.cli.machine import NAME, Machine, ask
from tests.program import DEMO, DEMO_ID

pytestmark = [
    pytest.mark.program,
    pytest.mark.model,
    pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler"),
]

MODEL = ["--model-path", str(DEMO)]
GENERATE = ["generate", DEMO_ID, *MODEL, "--prompt", "Hi", "--max-tokens", "4", "--temperature", "0"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_what_lies_in_the_folder_is_used_unless_the_user_says_no(machine: Machine) -> None:
    machine.gpu()
    plain = machine.run(*GENERATE, "--gpu-layers", "0")
    assert (plain.returncode, plain.stderr) == (0, "")
    assert machine.num_opened == 0
    told = machine.gpu_info()
    assert machine.num_opened == 1
    assert {"name": "vulkan", "path": str(machine.backends / NAME)} in told["loaded"]
    assert [(device["name"], device["kind"]) for device in told["devices"]] == [("CPU", "cpu"), ("Fake0", "gpu")]
    assert str(machine.backends) in told["searched"]
    for number_opened, flags in enumerate([[], ["--gpu-layers", "all"]], 1):
        offloaded = machine.run(*GENERATE, *flags)
        assert (offloaded.returncode, offloaded.stdout, offloaded.stderr) == (0, plain.stdout, "")
        # A process was asked what the GPU has free, and another one has the model.
        assert machine.num_opened == 1 + 2 * number_opened


@pytest.mark.parametrize("flags", ["-DCRASHES", "-UGPU"])
def test_what_does_not_work_leaves_the_model_to_the_cpu(flags: str, machine: Machine) -> None:
    """Where nobody asked for more. It is opened in a process of its own, and not in the model's."""
    machine.backend(machine.backends / NAME, flags)
    done = machine.run("probe", DEMO_ID, *MODEL)
    assert (done.returncode, done.stderr) == (0, "") and "tokens, 31 layers on CPU," in done.stdout
    assert machine.num_opened == 1
    assert machine.run("probe", DEMO_ID, *MODEL, "--main-gpu", "0").returncode == 5


@pytest.mark.parametrize(
    ("flags", "environment", "layers", "num_opened"),
    [
        ([], {"SHIMMY_GPU_LAYERS": "9999"}, "tokens, 31 layers on Fake0,", 2),
        (["--cache-type-k", "q8_0"], {}, "tokens, 31 layers on Fake0,", 2),
        (["--device", "fake0"], {}, "tokens, 31 layers on Fake0,", 2),
        (["--device", "Fake0", "--gpu-layers", "0"], {"SHIMMY_GPU_LAYERS": "9"}, "tokens, 31 layers on CPU,", 0),
    ],
)
def test_layers_go_where_they_should(
    flags: list[str], environment: dict[str, str], layers: str, num_opened: int, machine: Machine
) -> None:
    machine.gpu()
    done = machine.run("probe", DEMO_ID, *MODEL, *flags, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert layers in done.stdout
    assert machine.num_opened == num_opened


@pytest.mark.parametrize(
    ("environment", "layers", "num_opened"),
    [
        ({}, {"Fake0": 31}, 2),
        ({"SHIMMY_GPU_LAYERS": "10", "SHIMMY_DEVICE": "Fake0"}, {"CPU": 21, "Fake0": 10}, 2),
    ],
)
def test_a_server(environment: dict[str, str], layers: dict[str, int], num_opened: int, machine: Machine) -> None:
    machine.gpu()
    with program.program(machine.home, *MODEL, environment=environment) as running:
        assert ask(running)["choices"]
        assert running.get(f"/v1/models/{DEMO_ID}")["layers"] == layers
    assert machine.num_opened == num_opened


def test_a_backend_that_crashes_keeps_no_model_from_another_one(machine: Machine) -> None:
    machine.gpu()
    machine.backend(machine.backends / "libggml-cuda.so", "-DCRASHES")
    done = machine.run("probe", DEMO_ID, *MODEL)
    assert (done.returncode, done.stderr) == (0, "") and "tokens, 31 layers on Fake0," in done.stdout
    # The process that was asked first died of the one, the next one had the other, and then the model's.
    assert machine.num_opened == 3


def test_a_gpu_that_two_backends_bring_is_used_once(machine: Machine) -> None:
    machine.backend(machine.backends / "libggml-cuda.so", '-DGPU="First0"', '-DGPU_ID="0000:c1:00.0"')
    machine.backend(machine.backends / NAME, '-DGPU="Second0"', '-DGPU_ID="0000:c1:00.0"')
    devices = [(device["name"], device["provider"], device["gpu_id"]) for device in machine.gpu_info()["devices"]]
    assert devices == [("CPU", "", ""), ("First0", "cuda", "0000:c1:00.0"), ("Second0", "vulkan", "0000:c1:00.0")]
    for flags, layers in (([], "31 layers on First0,"), (["--device", "Second0"], "31 layers on Second0,")):
        done = machine.run("probe", DEMO_ID, *MODEL, *flags)
        assert (done.returncode, done.stderr) == (0, "") and f"tokens, {layers}" in done.stdout


def test_only_the_backend_that_is_named_is_opened(machine: Machine) -> None:
    """Its GPUs get all layers; `cpu` opens nothing, and `auto` goes by what else is asked for: to find a GPU both are
    opened, and for the model its own."""
    machine.gpu()
    machine.backend(machine.backends / "libggml-opencl.so", '-DGPU="Other0"')
    for flags, layers, num_opened in (
        (["--gpu-backend", "opencl"], "31 layers on Other0,", 2),
        (["--gpu-backend", "vulkan", "--gpu-layers", "31"], "31 layers on Fake0,", 4),
        (["--gpu-backend", "cpu"], "31 layers on CPU,", 4),
        (["--gpu-backend", "auto", "--device", "Other0"], "31 layers on Other0,", 7),
    ):
        done = machine.run("probe", DEMO_ID, *MODEL, *flags)
        assert (done.returncode, done.stderr) == (0, "") and f"tokens, {layers}" in done.stdout
        assert machine.num_opened == num_opened
    done = machine.run("probe", DEMO_ID, *MODEL, "--gpu-backend", "cuda")
    assert done.returncode == 5 and "there is no libggml-cuda.so in " in done.stderr


def test_without_a_gpu_nothing_is_computed_in_silence(machine: Machine) -> None:
    done = machine.run(*GENERATE, "--gpu-layers", "1")
    assert (done.returncode, done.stdout) == (5, "")
    assert "there is no libggml-cuda.so, " in done.stderr and str(machine.backends) in done.stderr
    machine.backend(machine.backends / NAME)
    assert f"{machine.backends / NAME}: it finds no GPU" in machine.run(*GENERATE, "--gpu-layers", "1").stderr
    machine.gpu()
    assert "there is no GPU 'CUDA7', but Fake0" in machine.run(*GENERATE, "--device", "CUDA7").stderr


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "", "99999", "²"])
def test_a_number_of_layers_that_makes_no_sense(value: str, machine: Machine) -> None:
    done = machine.run(*GENERATE, "--gpu-layers", value)
    assert done.returncode == 2 and "Invalid value for '--gpu-layers'" in done.stderr


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"XDG_DATA_HOME": ""},
        {"XDG_DATA_HOME": "."},
        {"XDG_DATA_HOME": "data"},
        {"HOME": "."},
        {"LD_LIBRARY_PATH": "."},
        {"LD_LIBRARY_PATH": f":{os.sep}nowhere"},
        {"GGML_BACKEND_PATH": NAME},
    ],
    ids=lambda environment: " ".join(f"{name}={value!r}" for name, value in environment.items()) or "nothing",
)
def test_never_from_the_current_directory(environment: dict[str, str], machine: Machine) -> None:
    planted = machine.backend(machine.here / NAME, '-DGPU="Fake0"')
    for folder in ("backends", "shimmy/backends", "data/shimmy/backends", ".local/share/shimmy"):
        (machine.here / folder).mkdir(parents=True)
        shutil.copy(planted, machine.here / folder)
    shutil.copytree(machine.here / "backends", machine.here / ".local/share/shimmy/backends")
    machine.reason(**environment)
    assert machine.num_opened == 0


def test_layers_on_a_gpu_do_not_make_a_difference_to_that(machine: Machine) -> None:
    machine.backend(machine.here / NAME, '-DGPU="Fake0"')
    machine.backend(machine.here / "backends" / NAME, '-DGPU="Fake0"')
    assert machine.run(*GENERATE, "--gpu-layers", "all").returncode == 5
    assert machine.num_opened == 0


@pytest.mark.parametrize(
    ("own_search", "search"),
    [
        ("/nowhere:", ""),
        (".", "/nowhere"),
        ("/nowhere", "."),
        ("/nowhere", ":/nowhere"),
        ("/nowhere", "/nowhere::here"),
    ],
)
def test_what_a_backend_needs_does_not_come_from_the_current_directory(
    own_search: str, search: str, machine: Machine
) -> None:
    """CMake likes to end the search path of a library with an empty part, which stands for that."""
    planted = machine.backend(machine.here / "libneeded.so", "-Wl,-soname,libneeded.so")
    flags = ["-UMARKER", "-Wl,--no-as-needed", str(planted), f"-Wl,-rpath,{own_search}"]
    needing = machine.backend(machine.backends / NAME, *flags)
    assert machine.reason(LD_LIBRARY_PATH=search) == (
        f"{needing}: libneeded.so: cannot open shared object file: No such file or directory"
    )
    assert machine.num_opened == 0


def expose(path: Path) -> Path:
    path.chmod(path.stat().st_mode | 0o002)
    return path


@pytest.mark.parametrize("what", ["library", "folder", "folder above", "library beside it"])
def test_what_others_may_write_is_refused(what: str, machine: Machine) -> None:
    library = machine.gpu()
    beside = machine.backend(machine.backends / "libbeside.so.1")
    places = {"library": library, "folder": library.parent, "folder above": machine.home, "library beside it": beside}
    exposed = expose(places[what])
    assert machine.reason().startswith(f"{library}: others may write to {exposed} (mode ")
    assert machine.num_opened == 0


def test_what_the_group_may_write_depends_on_the_group(machine: Machine) -> None:
    """What is right for whom: tests/worker/llama/test_trust.py. Here, that the program can tell."""
    machine.gpu()
    machine.backends.chmod(0o775)
    machine.gpu_info()
    assert machine.num_opened == (1 if exposure(machine.backends) is None else 0)


def test_what_is_refused_gets_no_layers(machine: Machine) -> None:
    library = expose(machine.gpu())
    done = machine.run(*GENERATE, "--gpu-layers", "all")
    assert done.returncode == 5 and f"{library}: others may write to {library} (mode " in done.stderr
    assert machine.num_opened == 0


def test_a_link_is_as_good_as_what_it_leads_to(machine: Machine) -> None:
    library = machine.backend(machine.home / "elsewhere" / "libfake.so", '-DGPU="Fake0"')
    (machine.backends / NAME).symlink_to(library)
    assert "Fake0" in {device["name"] for device in machine.gpu_info()["devices"]}
    assert machine.num_opened == 1
    expose(library.parent)
    assert f"others may write to {library.parent}" in machine.reason()
    assert machine.num_opened == 1


def shorten(library: Path) -> None:
    os.truncate(library, library.stat().st_size // 2)


def test_each_library_that_does_not_work_is_told(machine: Machine) -> None:
    """And the one that works is loaded all the same."""
    paths = {name: machine.backends / f"libggml-{name}.so" for name in ("cuda", "hip", "metal", "sycl", "vulkan")}
    shorten(machine.backend(paths["cuda"]))
    paths["hip"].write_text("This is no library.\n" * 100)
    machine.backend(paths["metal"], "-DAPI_VERSION=1")
    machine.backend(paths["sycl"], "-DREFUSES")
    machine.backend(paths["vulkan"], "-DCRASHES")
    (machine.backends / "libggml-rpc.so").symlink_to("nowhere")
    works = machine.backend(machine.backends / "libggml-opencl.so")
    told = machine.gpu_info()
    assert {"name": "opencl", "path": str(works)} in told["loaded"]
    reasons = {absent["name"]: absent["reason"].removeprefix(f"{paths[absent['name']]}: ") for absent in told["absent"]}
    # Where the end of a file is, is not the same for each file system.
    assert re.fullmatch(r"the process that opened it ended \(SIG\w+\)|file too short|cannot .*", reasons.pop("cuda"))
    assert "incompatible API version (backend: 1, current: 2)" in reasons.pop("metal")
    assert reasons == {
        "hip": "invalid ELF header",
        "sycl": "it does not support this machine",
        "vulkan": "the process that opened it ended (SIGABRT)",
    }


def test_a_damaged_library_gets_no_layers(machine: Machine) -> None:
    library = machine.gpu()
    shorten(library)
    done = machine.run(*GENERATE, "--gpu-layers", "all")
    assert done.returncode == 5 and str(library) in done.stderr


def test_a_server_survives_a_library_that_crashes(machine: Machine) -> None:
    library = machine.backend(machine.backends / NAME, "-DCRASHES")
    with program.program(machine.home, *MODEL, "--gpu-layers", "all") as running:
        error = ask(running)["error"]
        assert error["code"] == "model_failed"
        assert error["message"].endswith(f"its worker process ended (SIGABRT) while it opened {library}")
        assert running.get("/health")["status"] == "ok"
    assert machine.num_opened >= 1


@pytest.mark.skipif(not program.IS_FROZEN, reason="only an executable has a place of its own")
def test_beside_the_executable(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the file itself, not of the link to it, and before the data folder."""
    folder = machine.home / "programs"
    folder.mkdir()
    shutil.copy(program.EXE, folder / "shimmy")
    (machine.here / "shimmy").symlink_to(folder / "shimmy")
    monkeypatch.setattr(program, "EXE", machine.here / "shimmy")
    machine.backend(machine.here / "backends" / NAME, '-DGPU="Planted"')
    machine.gpu()
    library = machine.backend(folder / "backends" / NAME, '-DGPU="Beside0"')
    told = machine.gpu_info()
    assert told["searched"] == [str(library.parent), str(machine.backends)]
    assert [device["name"] for device in told["devices"]] == ["CPU", "Beside0"]
