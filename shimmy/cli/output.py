"""How the subcommands print: tables, sizes, JSON. No control character of a file name or header gets into a table."""

from collections.abc import Sequence
from typing import Any

import click

from shimmy.models.names import printable


def print_json(value: Any) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their longest cell; the last one is not padded."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def decimal_bytes(num_bytes: int) -> str:
    return f"{_short(num_bytes)}B"


def count(number: int | None) -> str:
    """`134515008` is `135M`; `-` where the number is not known."""
    return "-" if number is None else _short(number)


def _short(number: int) -> str:
    value = float(number)
    for unit in ("", "k", "M", "G", "T"):
        if value < 999.5 or unit == "T":
            break
        value /= 1000
    return f"{value:.3g}{unit}"
