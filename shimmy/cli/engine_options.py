"""The flags of what is handed on to llama.cpp, together with the `[engine]` table of a settings file, as one record.

A flag wins over its variable, the variable over the file. What is wrong is said before a worker starts.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from shimmy.cli.config import TABLE, config_option

if TYPE_CHECKING:
    from shimmy.core.engine_settings import EngineSettings

# Name, variable, what a value looks like, help; each is checked as the field of `EngineSettings` with its name.
_FLAGS = (
    ("gpu-layers", "SHIMMY_GPU_LAYERS", "NUMBER|all", "Layers of a model that go to a GPU."),
    ("gpu-backend", "SHIMMY_GPU_BACKEND", "NAME", "Use the GPUs of this backend only, or cpu."),
    ("split-mode", "SHIMMY_SPLIT_MODE", "none|layer", "Use one GPU, or share layers out."),
    ("tensor-split", "SHIMMY_TENSOR_SPLIT", "PART,...", "How much each GPU gets."),
    ("main-gpu", "SHIMMY_MAIN_GPU", "NUMBER", "The only GPU to use, counted from 0."),
    ("n-cpu-moe", "SHIMMY_N_CPU_MOE", "NUMBER", "Keep the experts of the first layers on the CPU."),
    ("cache-type-k", "SHIMMY_CACHE_TYPE_K", "TYPE", "How keys are stored, such as f16 or q8_0."),
    ("cache-type-v", "SHIMMY_CACHE_TYPE_V", "TYPE", "How values are stored."),
    ("flash-attn", "SHIMMY_FLASH_ATTN", "auto|on|off", "Flash attention."),
)
ENGINE_FLAGS = (*(name for name, *_ in _FLAGS), "device", "lora", "cpu-moe")
_NAMES = tuple(name.replace("-", "_") for name in ENGINE_FLAGS)


class _Whole(click.ParamType[str]):
    """A path in a variable may have spaces."""

    name = "file"

    def split_envvar_value(self, rv: str) -> list[str]:
        return [rv] if rv else []


def engine_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the flags and --config; `function` gets `engine`, None where nothing of it is set."""

    @wraps(function)
    def gathered(**flags: Any) -> Any:
        given = {name: flags.pop(name) for name in _NAMES}
        given = {name: value for name, value in given.items() if value not in (None, (), False)}
        table = click.get_current_context().meta.get(TABLE)
        return function(**flags, engine=_settings(table, given) if given or table else None)

    for name, variable, metavar, text in reversed(_FLAGS):
        gathered = click.option(f"--{name}", metavar=metavar, envvar=variable, help=text)(gathered)
    several: dict[str, Any] = {"multiple": True, "metavar": "NAME", "envvar": "SHIMMY_DEVICE"}
    gathered = click.option("--device", **several, help="A GPU for them, as gpu-info calls it.")(gathered)
    text = "Keep the experts of all layers on the CPU."
    gathered = click.option("--cpu-moe", is_flag=True, default=None, envvar="SHIMMY_CPU_MOE", help=text)(gathered)
    several = {"multiple": True, "metavar": "FILE[=SCALE]", "envvar": "SHIMMY_LORA_GGUF", "type": _Whole()}
    return config_option(click.option("--lora", **several, help="A LoRA adapter for the model.")(gathered))


def _settings(table: dict[str, Any] | None, given: dict[str, Any]) -> "EngineSettings":
    import msgspec

    from shimmy.core.engine_settings import EngineSettings, check

    try:
        settings = msgspec.convert(table or {}, EngineSettings)
    except msgspec.ValidationError as error:
        raise click.UsageError(f"--config: in [engine]: {_readable(error)}.") from error
    settings = msgspec.structs.replace(settings, **{name: _converted(name, value) for name, value in given.items()})
    try:
        check(settings)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    return settings


def _converted(name: str, value: Any) -> Any:
    import msgspec

    from shimmy.core.engine_settings import EngineSettings

    key = name.replace("_", "-")
    if key == "tensor-split":
        value = value.split(",")
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    try:
        return getattr(msgspec.convert({key: value}, EngineSettings, strict=False), name)
    except msgspec.ValidationError as error:
        reason = _readable(error).partition(": ")[2] or _readable(error)
        raise click.BadParameter(f"{reason}.", param_hint=f"'--{key}'") from error


def _readable(error: Exception) -> str:
    """msgspec's message, with the values there are instead of its word for them."""
    import re
    from typing import get_type_hints

    from shimmy.core.engine_settings import EngineSettings

    said, _, place = str(error).replace("`", "'").partition(" - at '$.")
    if not place:
        return said
    key = re.split("[^a-z-]", place)[0]
    hint = get_type_hints(EngineSettings)[key.replace("-", "_")]
    if choices := list(_choices(hint)):
        said = f"it must be {' or '.join(choices)}"
    return f"{key}: {said}"


def _choices(hint: Any) -> Iterator[str]:
    from typing import get_args

    for each in get_args(hint):
        if each is int:
            yield "a number"
        elif isinstance(each, str):
            yield each
        else:
            yield from _choices(each)
