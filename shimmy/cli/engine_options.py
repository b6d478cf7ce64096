"""The flags of the table `[engine]`, and that table of a settings file, as one record. What is wrong is said before a
worker starts. Imported only where something of it is set.
"""

from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import click
import msgspec

from shimmy.core.engine_settings import EngineSettings, check


def engine_settings(table: dict[str, Any] | None, given: dict[str, Any]) -> EngineSettings:
    """`table` as the file has it, `given` as typed, by the names of fields: these win."""
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
    said, _, place = str(error).replace("`", "'").partition(" - at '$.")
    if not place:
        return said
    # What follows the name is the place in a list.
    key = place.rstrip("'").partition("[")[0]
    hint = get_type_hints(EngineSettings)[key.replace("-", "_")]
    if choices := list(_choices(hint)):
        said = f"it must be {' or '.join(choices)}"
    return f"{key}: {said}"


def _choices(hint: Any) -> Iterator[str]:
    for each in get_args(hint):
        if each is int:
            yield "a number"
        elif isinstance(each, str):
            yield each
        else:
            yield from _choices(each)
