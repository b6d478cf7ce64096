"""Flags that several subcommands share, and the kinds of value that flags take."""

import math
import os
import re
from collections.abc import Callable
from typing import Any

import click

_BIND = re.compile(r"(?:\[[^\[\]]+\]|[^:\[\]]+):(?P<port>\d{1,5})")
_API_KEY = re.compile(r"[!-~]+")
_MAX_SECONDS = 86_400.0


def model_sources(function: Callable[..., Any]) -> Callable[..., Any]:
    """--model-path and --model-dirs, as `model_path` and `model_dirs`."""
    file = click.Path(exists=True, dir_okay=False)
    path = click.option("--model-path", type=file, help="A GGUF file to list before all others.")
    dirs = click.option(
        "--model-dirs",
        multiple=True,
        metavar="DIR[;DIR...]",
        callback=_folders,
        help="Folders to search before the usual ones; may be repeated.",
    )
    return path(dirs(function))


def offload(function: Callable[..., Any]) -> Callable[..., Any]:
    """--gpu-layers and --device, as `num_gpu_layers` and `devices`."""
    layers = click.option(
        "--gpu-layers",
        "num_gpu_layers",
        type=gpu_layers,
        metavar="NUMBER|all",
        envvar="SHIMMY_GPU_LAYERS",
        help="Layers of a model that go to a GPU.",
    )
    device = click.option(
        "--device",
        "devices",
        type=text,
        multiple=True,
        metavar="NAME",
        envvar="SHIMMY_DEVICE",
        help="A GPU for them, as gpu-info calls it; may be repeated.",
    )
    return layers(device(function))


def _folders(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    folders = [folder.strip() for value in values for folder in value.split(";") if folder.strip()]
    for folder in folders:
        if not os.path.isdir(os.path.expanduser(folder)):
            raise click.BadParameter(f"there is no folder {folder!r}.", ctx, param)
    return tuple(folders)


def bind(value: str) -> str:
    match = _BIND.fullmatch(value)
    if value != "auto" and not (match and int(match["port"]) < 1 << 16):
        raise click.BadParameter(f"{value!r} is neither HOST:PORT, with an IPv6 host in brackets, nor auto.")
    return value


def api_key(value: str) -> str:
    if not _API_KEY.fullmatch(value):
        # The value is not repeated: it is a secret.
        raise click.BadParameter("a key consists of visible ASCII characters, without spaces.")
    return value


def text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise click.BadParameter("it is not valid UTF-8.") from error
    return value


def megabytes(value: str) -> int:
    """In bytes."""
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is no number of megabytes.")
    return int(value) << 20


def seconds(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= _MAX_SECONDS:
        raise click.BadParameter(f"{value!r} is no number of seconds from 0 to {_MAX_SECONDS:g}.")
    return number


def gpu_layers(value: str) -> int:
    """-1 stands for all, as in llama.cpp."""
    if value == "all":
        return -1
    if not re.fullmatch(r"\d{1,4}", value, re.ASCII):
        raise click.BadParameter(f"{value!r} is neither a number of layers nor all.")
    return int(value)


def checked(type_name: str) -> Callable[[str], Any]:
    """A number in the range that shimmy.core.request sets for every protocol, found there by the name of its type."""

    def convert(value: str) -> Any:
        import msgspec

        from shimmy.core import request

        try:
            return msgspec.convert(value, getattr(request, type_name), strict=False)
        except msgspec.ValidationError as error:
            raise click.BadParameter(f"{value!r}: {error}.") from error

    return convert
