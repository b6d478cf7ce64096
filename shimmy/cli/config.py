"""--config: a settings file in TOML. What stands at its top level has the names of the flags of `serve`, or of settings
without one; the table `[engine]` is for engine_options.py. A flag and its variable win over the file, and an unknown
name is an error. Imported only where there is such a file.
"""

import tomllib
from typing import Any

import click
import msgspec

from shimmy.cli.options import ENGINE_FLAGS, ENGINE_TABLE, FLAGLESS
from shimmy.core.settings import Settings

_FLAGLESS = (
    *("max_body_bytes", "body_seconds", "ping_seconds", "stall_seconds", "hang_seconds"),
    *("max_queued_requests", "max_connections_per_address"),
)
# Without it: 0.
_MAY_BE_ZERO = ("hang_seconds",)
_MAX_BYTES = 1 << 20


def apply(ctx: click.Context, path: str) -> None:
    """What is at the top level becomes the defaults of flags. Raises `click.BadParameter`."""
    values = _read(path)
    table = values.pop("engine", {})
    if not isinstance(table, dict):
        raise click.BadParameter(f"{path!r}: engine is no table.")
    ctx.meta[ENGINE_TABLE] = table
    names = {field.replace("_", "-"): field for field in _FLAGLESS}
    ctx.meta[FLAGLESS] = {
        names[name]: _as_number(path, name, names[name], values.pop(name)) for name in list(values) if name in names
    }
    known = _flags()
    for name, value in values.items():
        if name not in known:
            raise click.BadParameter(f"{path!r}: there is no setting {name!r}.")
        known[name] = _as_typed(path, name, value, known[name])
    # A file for `serve` serves the other commands as well: they take what they know.
    ctx.default_map = {
        each.name: known[flag[2:]]
        for each in ctx.command.params
        for flag in each.opts
        if each.name and flag[2:] in values
    }


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise click.BadParameter(f"{path!r}: {error.strerror}.") from error
    if len(content) > _MAX_BYTES:
        raise click.BadParameter(f"{path!r} is no settings file: it has more than {_MAX_BYTES} bytes.")
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise click.BadParameter(f"{path!r}: {error}.") from error


def _flags() -> dict[str, Any]:
    """What may stand at the top level, and the option of each."""
    from shimmy.cli.serve import command

    options = {option[2:]: each for each in command.params if isinstance(each, click.Option) for option in each.opts}
    return {name: each for name, each in options.items() if name not in ("config", "help", *ENGINE_FLAGS)}


def _as_number(path: str, name: str, field: str, value: Any) -> Any:
    try:
        number = msgspec.convert(value, Settings.__annotations__[field])
    except msgspec.ValidationError as error:
        raise click.BadParameter(f"{path!r}: {name}: {error}.") from error
    if number == 0 and field in _MAY_BE_ZERO:
        return number
    if not 0 < number < float("inf"):
        raise click.BadParameter(f"{path!r}: {name} must be more than 0.")
    return number


def _as_typed(path: str, name: str, value: Any, option: click.Option) -> Any:
    """As it would be typed after the flag."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise click.BadParameter(f"{path!r}: {name} must be true or false.")
        return value
    values = value if option.multiple and isinstance(value, list) else [value]
    if not all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in values):
        raise click.BadParameter(f"{path!r}: {name} must be a text or a number.")
    texts = [str(each) for each in values]
    return texts if option.multiple else texts[0]
