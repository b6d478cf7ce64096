"""`gpu-info`: what a worker says of its devices."""

import json

import msgspec
import pytest

from shimmy.core.errors import ShimmyError
from shimmy.core.ipc import AbsentBackend, Device, Devices, LoadedBackend
from tests.cli.conftest import Invoke
from tests.program import inside

pytestmark = pytest.mark.program

FOUND = Devices(
    devices=[Device("CPU", "Some Processor", "cpu", "CPU", 8_000_000_000, 16_000_000_000)],
    absent=[AbsentBackend("vulkan", "there is no libggml-vulkan.so")],
    llama_version="b1234",
    cpu_variant="haswell",
    cpu_features=["AVX2", "FMA"],
    loaded=[LoadedBackend("rpc", "/opt/libggml-rpc.so\n")],
    searched=["/opt/backends", "/home/backends"],
)


def answer(monkeypatch: pytest.MonkeyPatch, outcome: Devices | ShimmyError) -> None:
    async def list_devices() -> Devices:
        if isinstance(outcome, ShimmyError):
            raise outcome
        return outcome

    monkeypatch.setattr("shimmy.pool.devices.list_devices", list_devices)


@inside("devices that are made up")
def test_shows_devices_and_why_others_are_absent(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, FOUND)
    result = invoke("gpu-info")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "DEVICE  KIND  BACKEND  MEMORY  FREE  DESCRIPTION",
        "CPU     cpu   CPU      16GB    8GB   Some Processor",
        "",
        "Models are computed by the CPU: there is no GPU.",
        "llama.cpp b1234, CPU code for haswell",
        "CPU features: AVX2 FMA",
        "rpc: loaded from /opt/libggml-rpc.so-",
        "no vulkan: there is no libggml-vulkan.so",
        "Backends are looked for in /opt/backends and /home/backends",
    ]


@inside("devices that are made up")
@pytest.mark.parametrize(
    ("kinds", "has_backend", "said"),
    [
        (["gpu", "gpu"], True, "As many layers of models as fit are computed by G0, G1; with"),
        (
            ["integrated gpu", "gpu"],
            True,
            "As many layers of models as fit are computed by G1; with",
        ),
        (["integrated gpu"], True, "As many layers of models as fit are computed by G0; with"),
        (["accelerator"], True, "Models are computed by the CPU: there is no GPU."),
        # One that Shimmy brings itself.
        (["gpu"], False, "Models are computed by the CPU; with --gpu-layers auto as many layers as fit are by G0."),
    ],
)
def test_says_what_models_get_unasked(
    kinds: list[str], has_backend: bool, said: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [Device(f"G{number}", "", kind, "Fake", 1, 1) for number, kind in enumerate(kinds)]
    answer(monkeypatch, msgspec.structs.replace(FOUND, devices=[*FOUND.devices, *found]))
    monkeypatch.setattr("shimmy.hardware.backends.is_there", lambda: has_backend)
    [line] = [line for line in invoke("gpu-info").stdout.splitlines() if "computed by" in line]
    assert line.startswith(said)


@inside("devices that are made up")
def test_json(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, FOUND)
    shown = json.loads(invoke("gpu-info", "--json").stdout)
    assert list(shown) == ["devices", "absent", "llama_version", "cpu_variant", "cpu_features", "loaded", "searched"]
    assert shown["devices"][0]["total_bytes"] == 16_000_000_000


@inside("devices that are made up")
def test_a_worker_that_fails(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, ShimmyError("the worker process ended"))
    result = invoke("gpu-info")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "shimmy: the worker process ended\n")


@pytest.mark.model
def test_a_real_worker_finds_the_cpu(invoke: Invoke) -> None:
    shown = json.loads(invoke("gpu-info", "--json").stdout)
    assert "cpu" in {device["kind"] for device in shown["devices"]}
    assert all(device["total_bytes"] > 0 for device in shown["devices"])
    assert shown["cpu_variant"] and shown["llama_version"]
