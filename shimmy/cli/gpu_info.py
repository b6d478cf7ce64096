"""`shimmy gpu-info`: what llama.cpp itself finds to compute on, asked of a worker that loads no model."""

from typing import TYPE_CHECKING

import click

from shimmy.cli.output import decimal_bytes, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shimmy.core.ipc import Device, Devices


@click.command("gpu-info", help="Show the devices that models can run on, and why others are absent.")
@click.option("--json", "as_json", is_flag=True, help="Print the same as JSON.")
def command(as_json: bool) -> None:
    from shimmy.cli.interrupt import run
    from shimmy.pool.devices import list_devices

    devices = run(list_devices())
    if as_json:
        _print_as_json(devices)
    else:
        _print(devices)


def _print_as_json(devices: "Devices") -> None:
    import msgspec

    fields = msgspec.to_builtins(devices)
    del fields["type"]
    print_json(fields)


def _row(device: "Device") -> tuple[str, ...]:
    memory, free = decimal_bytes(device.total_bytes), decimal_bytes(device.free_bytes)
    return (device.name, device.kind, device.backend, memory, free, device.description)


def _who_computes(devices: "Sequence[Device]") -> str:
    """Of a model, where no flag says it."""
    from shimmy.core.engine_settings import EngineSettings
    from shimmy.hardware.backends import is_there
    from shimmy.pool.offload import usable

    gpus = [gpu.name for gpu in usable(devices, EngineSettings(gpu_layers="auto")) or ()]
    if not gpus:
        return "Models are computed by the CPU: there is no GPU."
    if not is_there():
        return f"Models are computed by the CPU; with --gpu-layers auto as many layers as fit are by {', '.join(gpus)}."
    return f"As many layers of models as fit are computed by {', '.join(gpus)}; with --gpu-layers 0 none."


def _print(devices: "Devices") -> None:
    from shimmy.models.names import printable

    print_table([("DEVICE", "KIND", "BACKEND", "MEMORY", "FREE", "DESCRIPTION"), *map(_row, devices.devices)])
    click.echo(f"\n{_who_computes(devices.devices)}")
    click.echo(f"llama.cpp {devices.llama_version}, CPU code for {devices.cpu_variant}")
    click.echo(f"CPU features: {' '.join(devices.cpu_features)}")
    for loaded in devices.loaded:
        click.echo(f"{loaded.name}: loaded from {printable(loaded.path)}")
    for absent in devices.absent:
        click.echo(f"no {absent.name}: {printable(absent.reason)}")
    click.echo(f"Backends are looked for in {' and '.join(map(printable, devices.searched))}")
